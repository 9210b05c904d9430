// The newest actions, moving to the left, and the list of all of them.
import { percent } from "./bars.js";

const HEIGHT = 46;
const LETTER_PX = 7.6; // of a label; as wide as most are
const SPAN_MS = 30000;
const NARROW_SPAN_MS = 15000; // on a phone
const MOST_LISTED = 200;
const NUM_COLOURS = 8;
const SVG = "http://www.w3.org/2000/svg";

function draw(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function make(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

export class Timeline {
  // Times are milliseconds of the page's clock; `null` until something was watched.
  constructor({ drawing, list, none }) {
    this.drawing = drawing;
    this.list = list;
    this.none = none;
    this.segments = [];
    this.current = null;
    this.beganMs = null;
    this.nowMs = null;
    this.colours = new Map();
  }

  // What an answer says: an action that goes on (null: none; not there: as before), and those that are over.
  take({ began_ms: began, current, ended }, timeMs) {
    this.beganMs ??= began;
    this.nowMs = timeMs;
    const placed = (segment) =>
      ({ ...segment, startMs: began + 1000 * segment.start_s, stopMs: began + 1000 * segment.stop_s });
    for (const segment of ended) this.add(placed(segment));
    if (current !== undefined) this.current = current ? placed(current) : null;
  }

  add(segment) {
    this.segments.push(segment);
    if (this.segments.length > MOST_LISTED) this.segments.shift();
    const item = document.createElement("li");
    const [start, stop] = [segment.startMs, segment.stopMs].map((ms) => (ms - this.beganMs) / 1000);
    const swatch = make(`swatch c${this.colour(segment.label)}`, "");
    item.append(swatch, make("when", `${clock(start)} to ${clock(stop)}`), make("what", segment.label),
      make("sure", percent(segment.confidence)));
    this.list.prepend(item);
    while (this.list.children.length > MOST_LISTED) this.list.lastChild.remove();
    this.none.hidden = true;
  }

  // Draw it as it is at a moment; by default that of the newest answer.
  show(timeMs = this.nowMs) {
    const width = this.drawing.clientWidth;
    if (!width) return;
    this.drawing.setAttribute("viewBox", `0 0 ${width} 84`);
    const parts = [draw("rect", { class: "ground", x: 0, y: 8, width, height: HEIGHT, rx: 3 })];
    if (timeMs !== null && this.beganMs !== null) {
      const spanMs = width < 500 ? NARROW_SPAN_MS : SPAN_MS;
      const left = timeMs - spanMs;
      const x = (ms) => (width * (ms - left)) / spanMs;
      parts.push(...this.ticks(left, timeMs, x, width));
      const shown = [...this.segments, ...(this.current ? [this.current] : [])];
      for (const segment of shown) {
        if (segment.stopMs > left) parts.push(this.block(segment, x, segment === this.current));
      }
      this.describe(shown.filter((segment) => segment.stopMs > left));
    }
    this.drawing.replaceChildren(...parts);
  }

  // Each label has its own, as long as there are enough.
  colour(label) {
    if (!this.colours.has(label)) this.colours.set(label, this.colours.size % NUM_COLOURS);
    return this.colours.get(label);
  }

  ticks(left, right, x, width) {
    const found = [];
    const first = Math.max(0, Math.ceil((left - this.beganMs) / 5000));
    for (let number = first; this.beganMs + 5000 * number <= right; number++) {
      const at = x(this.beganMs + 5000 * number);
      const anchor = at < 18 ? "start" : at > width - 18 ? "end" : "middle";
      found.push(draw("line", { class: "tick", x1: at, x2: at, y1: 8 + HEIGHT, y2: 14 + HEIGHT }),
        draw("text", { x: at, y: 29 + HEIGHT, "text-anchor": anchor }, clock(5 * number)));
    }
    return found;
  }

  block(segment, x, isGoing) {
    const [start, stop] = [x(segment.startMs), x(segment.stopMs)];
    const width = Math.max(3, stop - start);
    const colour = `c${this.colour(segment.label)}${isGoing ? " going" : ""}`;
    const inner = draw("svg", { class: "inner", x: start, y: 8, width, height: HEIGHT },
      draw("rect", { class: colour, x: 0, y: 0, width, height: HEIGHT, rx: 3 }));
    // What moves out of sight on the left keeps its label as long as there is room for it.
    const from = Math.max(0, -start);
    const label = fitted(segment.label, width - from - 10);
    if (label) inner.append(draw("text", { x: from + 5, y: 28 }, label));
    inner.append(draw("title", {}, `${segment.label}, ${percent(segment.confidence)}`));
    return inner;
  }

  describe(shown) {
    const words = shown.length ? shown.map((segment) => segment.label).join(", ") : "no action";
    const text = `Actions, the newest last: ${words}`;
    if (this.drawing.getAttribute("aria-label") !== text) this.drawing.setAttribute("aria-label", text);
  }
}

// As much of a label as there is room for.
function fitted(label, roomPx) {
  const most = Math.floor(roomPx / LETTER_PX);
  if (label.length <= most) return label;
  return most >= 4 ? `${label.slice(0, most - 1).trimEnd()}\u2026` : "";
}

// `1:05.3`
export function clock(seconds) {
  const whole = Math.max(0, seconds);
  const rest = (whole % 60).toFixed(Number.isInteger(whole) ? 0 : 1);
  return `${Math.floor(whole / 60)}:${rest.padStart(Number.isInteger(whole) ? 2 : 4, "0")}`;
}
