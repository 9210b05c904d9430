// The page of `kinema serve`: a camera's pictures go out, and what is recognised in them is shown.
import { clearBars, showBars } from "./bars.js";
import { SECURE_WORDS, Source, explain, hasCameras } from "./camera.js";
import { setUpClips } from "./clip.js";
import { Connection } from "./connection.js";
import { Timeline } from "./timeline.js";

const find = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");
const WINDOW_MS = 2000; // read-outs are of so long
const IS_STILL = matchMedia("(prefers-reduced-motion: reduce)");

const token = new URLSearchParams(location.search).get("token");

const timeline = new Timeline({ drawing: find("timeline"), list: find("events"), none: find("no-events") });
const source = new Source(find("video"), { onPicture, onEnd: stop });
const connection = new Connection({ token, onMessage, onState });
const delays = []; // [when an answer came, how old its picture was]
const pictures = []; // when the camera gave one
let state = "off"; // or "watching", "paused"
let isEncoding = false;
let numPictures = 0;
let numSeen = 0;
let wake = null;

function say(text) {
  const box = find("message");
  const isNew = box.textContent !== text;
  box.hidden = !text;
  if (!isNew) return;
  box.textContent = text;
  if (text) box.scrollIntoView({ block: "nearest" }); // on a phone it may be out of sight
}

function showNow(kind, text) {
  const box = find("now");
  if (box.textContent !== text) box.textContent = text;
  box.dataset.state = kind;
}

function turn(to) {
  state = to;
  find("start").disabled = to === "watching";
  find("start").textContent = to === "paused" ? "Go on" : "Start camera";
  find("pause").disabled = to !== "watching";
  find("stop").disabled = to === "off";
  find("placeholder").hidden = to !== "off";
  if (to !== "watching") showNow("off", to === "paused" ? "paused" : "not watching");
  keepAwake(to === "watching");
}

async function keepAwake(isWanted) {
  wake?.release();
  wake = null;
  if (!isWanted || !navigator.wakeLock) return;
  try {
    wake = await navigator.wakeLock.request("screen");
  } catch { /* a phone that saves its battery says no */ }
}

// What is watched

async function start() {
  say("");
  if (state === "paused") {
    await source.play();
  } else {
    if (!hasCameras()) { say(SECURE_WORDS); return; }
    find("start").disabled = true;
    try {
      const used = await source.openCamera(find("camera").value);
      await listCameras(used);
    } catch (error) {
      turn("off");
      say(explain(error));
      return;
    }
  }
  begin();
}

async function play(file) {
  say("");
  stop("");
  try {
    await source.openFile(file);
  } catch {
    stop("The browser cannot play this file. Recognise may still read it.");
    return;
  }
  begin();
  find("video").scrollIntoView({ block: "nearest", behavior: IS_STILL.matches ? "auto" : "smooth" });
}

function begin() {
  pictures.length = delays.length = 0;
  turn("watching");
  showNow("warming", "warming up");
  connection.open();
}

function pause() {
  source.pause();
  connection.finish();
  turn("paused");
}

function stop(words) {
  source.close();
  connection.finish();
  turn("off");
  if (words) say(words);
}

async function listCameras(used) {
  const all = await navigator.mediaDevices.enumerateDevices();
  const options = all.filter(({ kind }) => kind === "videoinput").map(({ deviceId, label }, place) =>
    new Option(label || `camera ${place + 1}`, deviceId, false, deviceId === used));
  const chooser = find("camera");
  const chosen = used ?? chooser.value;
  chooser.replaceChildren(...(options.some(({ value }) => value) ? options : [new Option("any", "")]));
  if (options.some(({ value }) => value === chosen)) chooser.value = chosen;
}

// Pictures go out, answers come in

async function onPicture(timeMs) {
  pictures.push(performance.now());
  numPictures += 1;
  if (isEncoding || !connection.hasRoom) return;
  isEncoding = true;
  try {
    const { picture_px: shortPx, picture_bytes: mostBytes } = connection.hello;
    const jpeg = await source.jpeg(shortPx, mostBytes);
    if (jpeg && state === "watching") connection.send(timeMs, jpeg);
  } finally {
    isEncoding = false;
  }
}

function onMessage(message) {
  if (message.type === "hello" || message.type === "error") return;
  if (message.type === "finished") {
    timeline.take({ ...message, current: null }, timeline.nowMs);
    timeline.show();
    if (state === "off") connection.close(); // its place is free for another
    return;
  }
  const now = performance.now();
  numSeen += message.num_seen;
  delays.push([now, now - message.time_ms]);
  timeline.take(message, message.time_ms);
  if (message.type !== "answer") return; // a picture that was seen and asked for no answer
  if (state !== "watching") return;
  showBars(find("bars"), message.tasks, { known: message.known });
  if (!message.whole) showNow("warming", "warming up");
  else if (message.current) showNow("action", message.current.label);
  else showNow("nothing", message.known ? "nothing" : "nothing of its classes");
}

function onState(kind, words) {
  if (kind === "refused") stop(words);
  else if (state === "watching" || kind === "open") say(words);
  if (kind === "gone" && state === "watching") showNow("off", "no answer");
  if (kind === "gone" && state === "off") connection.close(); // it went before it said that it had finished
}

// Read-outs

function recent(list, when) {
  const from = performance.now() - WINDOW_MS;
  while (list.length && when(list[0]) < from) list.shift();
  return list;
}

function showNumbers() {
  if (state !== "watching") return;
  const old = recent(delays, ([when]) => when).map(([, delay]) => delay).sort((a, b) => a - b);
  const rate = (number) => `${((1000 * number) / WINDOW_MS).toFixed(1)}`;
  find("delay").textContent = old.length ? `${Math.round(old[old.length >> 1])}\u00a0ms` : "-";
  find("delay-worst").textContent = old.length ? `at most ${Math.round(old.at(-1))}\u00a0ms` : "from camera to answer";
  find("rate").textContent = rate(old.length);
  find("camera-rate").textContent = rate(recent(pictures, (when) => when).length);
  find("left-out").textContent = count(Math.max(0, numPictures - numSeen));
}

let lastDrawn = 0;
function animate(now) {
  requestAnimationFrame(animate);
  if (state !== "watching" || now - lastDrawn < (IS_STILL.matches ? 1000 : 50)) return;
  lastDrawn = now;
  timeline.show(timeline.nowMs === null ? null : now);
}

async function introduce() {
  try {
    const health = await (await fetch("/health")).json();
    document.title = `${health.model} \u00b7 kinema`;
    find("name").textContent = health.model;
    find("footer").textContent = `kinema ${health.version}`;
    find("facts").textContent = Object.entries(health.tasks)
      .map(([task, number]) => `${task}: ${count(number)} classes`).join(" \u00b7 ");
  } catch {
    say("The service cannot be reached. Is kinema serve still running?");
  }
}

find("start").addEventListener("click", start);
find("pause").addEventListener("click", pause);
find("stop").addEventListener("click", () => stop(""));
find("camera").addEventListener("change", () => { if (state === "watching") { stop(""); start(); } });
navigator.mediaDevices?.addEventListener?.("devicechange", () => listCameras());
new ResizeObserver(() => timeline.show()).observe(find("timeline"));
setInterval(showNumbers, 500);
requestAnimationFrame(animate);
clearBars(find("bars"), "Start the camera, or play a clip.");
setUpClips({ token, onPlay: play });
turn("off");
introduce();
if (!hasCameras()) say(SECURE_WORDS);
else listCameras();
