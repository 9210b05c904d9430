// A clip that is sent as a whole.
import { percent, showBars } from "./bars.js";

const find = (id) => document.getElementById(id);

function words(request) {
  try {
    return JSON.parse(request.responseText).error;
  } catch {
    return `the service answered ${request.status}`;
  }
}

export function setUpClips({ token, onPlay }) {
  const [file, recognise, play, cancel] = ["file", "recognise", "play", "cancel"].map(find);
  let request = null;

  function say(text) {
    find("clip-message").textContent = text;
    find("clip-message").hidden = !text;
  }

  function busy(isBusy) {
    find("progress").hidden = cancel.hidden = !isBusy;
    recognise.disabled = isBusy || !file.files.length;
    play.disabled = !file.files.length;
  }

  function show(answer) {
    const label = Object.values(answer.tasks).map(([best]) => best.class).join(" ");
    const sure = Object.values(answer.tasks).reduce((product, [best]) => product * best.probability, 1);
    const what = answer.known ? `${label}, ${percent(sure)}` : "nothing of its classes";
    const damaged = answer.damaged ? "; the file is damaged in places" : "";
    find("clip-label").textContent = `${answer.video}: ${what} (${answer.seconds.toFixed(2)} s${damaged})`;
    showBars(find("clip-bars"), answer.tasks, { known: answer.known });
    find("clip-result").hidden = false;
  }

  function send(chosen) {
    say("");
    find("clip-result").hidden = true;
    busy(true);
    request = new XMLHttpRequest();
    request.open("POST", token ? `/predict?token=${encodeURIComponent(token)}` : "/predict");
    request.upload.onprogress = ({ loaded, total }) => {
      find("bar").value = total ? loaded / total : 0;
      find("progress-words").textContent = loaded < total ? `sent ${percent(loaded / total)}` : "being recognised";
    };
    request.onload = () => {
      busy(false);
      if (request.status === 200) show(JSON.parse(request.responseText));
      else say(`${chosen.name}: ${words(request).replace(`${chosen.name}: `, "")}`);
    };
    request.onerror = () => { busy(false); say("The service cannot be reached. Is kinema serve still running?"); };
    request.onabort = () => busy(false);
    const form = new FormData();
    form.append("video", chosen);
    request.send(form);
  }

  file.addEventListener("change", () => { say(""); busy(false); });
  cancel.addEventListener("click", () => request?.abort());
  play.addEventListener("click", () => onPlay(file.files[0]));
  find("clip").addEventListener("submit", (event) => {
    event.preventDefault();
    if (file.files.length) send(file.files[0]);
  });
  busy(false);
}
