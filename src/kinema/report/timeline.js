// What the page of a timeline does beyond being read: its times and bars play the video.
(() => {
  const source = document.getElementById("page-data");
  const timeline = source && JSON.parse(source.textContent).timeline;
  const player = document.getElementById("player");
  if (!timeline || !player) return;
  const { cues, duration_s: whole } = timeline;
  const lanes = document.getElementById("lanes");
  const heads = [...document.querySelectorAll(".playhead")];
  const links = [...document.querySelectorAll("table a[data-start]")];

  const clock = (time) => {
    const [hours, minutes, seconds] = [Math.floor(time / 3600), Math.floor(time / 60) % 60, Math.floor(time) % 60];
    return [...(hours ? [hours, String(minutes).padStart(2, "0")] : [minutes]), String(seconds).padStart(2, "0")].join(":");
  };
  const at = (time) => cues.find(([start, stop]) => start <= time && time < stop);

  function show() {
    const time = player.currentTime;
    for (const head of heads) {
      const place = `${(100 * Math.min(time / whole, 1)).toFixed(3)}%`;
      head.setAttribute("x1", place);
      head.setAttribute("x2", place);
      head.setAttribute("visibility", "visible");
    }
    const now = at(time);
    for (const link of links) {
      const isNow = Boolean(now) && Number(link.dataset.start) === now[0];
      link.closest("tr").classList.toggle("now", isNow);
      if (isNow) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    lanes.setAttribute("aria-valuenow", time.toFixed(1));
    lanes.setAttribute("aria-valuetext", `${clock(time)}${now ? ` ${now[2]}` : ""}`);
  }

  function seek(time, play) {
    player.currentTime = Math.max(0, Math.min(time, whole));
    show();
    if (!play) return;
    player.scrollIntoView({ block: "nearest" });
    player.play().catch(() => {}); // where a browser does not want to, it stands there
  }

  for (const link of document.querySelectorAll("a[data-start]")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      event.stopPropagation();
      seek(Number(link.dataset.start), true);
    });
  }
  for (const drawing of document.querySelectorAll(".lane, .curves")) {
    drawing.addEventListener("click", (event) => {
      const box = drawing.getBoundingClientRect();
      seek((whole * (event.clientX - box.left)) / box.width, false);
    });
  }

  const name = "Place in the video. Left and right go from action to action, Enter plays.";
  const roles = { tabindex: 0, role: "slider", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": whole.toFixed(1) };
  for (const [key, value] of Object.entries(roles)) lanes.setAttribute(key, value);
  lanes.addEventListener("keydown", (event) => {
    const time = player.currentTime;
    const starts = cues.map(([start]) => start);
    const to = {
      ArrowRight: () => starts.find((start) => start > time + 0.05) ?? time,
      ArrowLeft: () => starts.findLast((start) => start < time - 0.05) ?? 0,
      Home: () => 0,
      End: () => whole,
    }[event.key];
    if (to) seek(to(), false);
    else if (event.key === "Enter" || event.key === " ") player.paused ? player.play().catch(() => {}) : player.pause();
    else return;
    event.preventDefault();
  });

  const track = player.addTextTrack("subtitles", "actions", "en");
  for (const [start, stop, label] of cues) track.addCue(new VTTCue(start, stop, label));
  track.mode = "showing";

  const fail = () => {
    player.hidden = true;
    document.querySelector(".trouble").hidden = false;
  };
  player.addEventListener("error", fail);
  player.addEventListener("loadedmetadata", () => { if (!player.videoWidth) fail(); }); // its sound alone
  if (player.error) fail();
  for (const event of ["timeupdate", "seeked"]) player.addEventListener(event, show);
  show();
})();
