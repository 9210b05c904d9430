// What a page of kinema does beyond being read: tables are sorted and filtered, a confusion matrix is asked for its
// clips. All of it is readable without this. Text of data sets is only ever set as text, never as markup.
"use strict";
(() => {
  const NBSP = "\u00a0";
  const MOST_LABELLED = 40; // more classes than this have no room for labels
  const ROWS_WITH_FILTER = 12; // shorter tables are seen at a glance
  const CLIPS_AT_ONCE = 100;
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const source = document.getElementById("page-data");
  const data = source ? JSON.parse(source.textContent) : {};
  const count = (value) => value.toLocaleString("en");
  const percent = (share) => `${(100 * share).toFixed(1)}${NBSP}%`;
  const clips = (number) => `${count(number)}${NBSP}clip${number === 1 ? "" : "s"}`;

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const draw = (name, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

  // One box for all tooltips. It follows the pointer, or stands beside what the keyboard has reached.
  const tip = document.body.appendChild(make("div", { class: "tip", role: "status", hidden: "" }));
  function showTip(text, x, y) {
    if (tip.textContent !== text) tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, document.documentElement.clientWidth - width - 8))}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
  }
  let follow = null; // puts the box beside what the keyboard has reached, when that is scrolled
  const hideTip = () => { tip.hidden = true; follow = null; };

  // The browser's own tooltips come late, and never to a finger.
  function quickenTips() {
    for (const title of document.querySelectorAll("svg title")) {
      title.parentNode.setAttribute("data-tip", title.textContent);
      title.parentNode.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    document.addEventListener("pointerover", (event) => {
      const about = event.target.closest?.("[data-tip]");
      if (about) showTip(about.dataset.tip, event.clientX, event.clientY);
      else if (!event.target.closest?.(".asked")) hideTip();
    });
    document.addEventListener("scroll", () => (follow ? follow() : hideTip()), { passive: true, capture: true });
  }

  // Tables

  // A number where there is one ("1,234", "−5.0 %", "72.1 to 90.4 %"), NaN for a dash.
  function numberIn(cell) {
    const exact = cell.querySelector("data");
    if (exact) return parseFloat(exact.value);
    return parseFloat(cell.textContent.trim().replaceAll("\u2212", "-").replaceAll(",", "").replace(/^[<+]\s*/, ""));
  }

  function sortTable(table, column, descending) {
    const body = table.tBodies[0];
    const isNumber = table.tHead.rows[0].cells[column].classList.contains("number");
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      return { row, key: isNumber ? numberIn(cell) : cell.textContent.trim() };
    });
    const missing = ({ key }) => (isNumber ? Number.isNaN(key) : key === "" || key === "\u2013");
    const sign = descending ? -1 : 1;
    keyed.sort((a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b); // last, whichever way
      return sign * (isNumber ? a.key - b.key : words.compare(a.key, b.key));
    });
    body.append(...keyed.map(({ row }) => row));
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        // What one looks for in numbers is mostly the highest, in names the first.
        const descending = before ? before === "ascending" : head.classList.contains("number");
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sortTable(table, column, descending);
      });
    });
  }

  function makeFilter(table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length <= ROWS_WITH_FILTER) return;
    const said = make("span", { class: "note", role: "status" });
    const what = table.tHead.rows[0].cells[0].textContent.trim() || "row";
    const box = make("input", { type: "search", placeholder: `filter by ${what}`, "aria-label": `filter by ${what}` });
    box.addEventListener("input", () => {
      const wanted = box.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      said.textContent = wanted ? `${count(rows.filter((row) => !row.hidden).length)} of ${count(rows.length)}` : "";
    });
    (table.closest(".scroll") ?? table).before(make("div", { class: "controls" }, box, said));
  }

  // Confusion matrices

  const ORDERS = {
    "as in the data set": () => () => 0,
    "name": ({ classes }) => (a, b) => words.compare(classes[a], classes[b]),
    "accuracy, lowest first": (spec) => (a, b) => share(spec, a) - share(spec, b),
    "accuracy, highest first": (spec) => (a, b) => share(spec, b, -1) - share(spec, a, -1),
    "number of clips": ({ totals }) => (a, b) => totals[b] - totals[a],
  };
  const share = ({ totals, right }, i, none = 2) => (totals[i] ? right[i] / totals[i] : none);

  // Which classes are shown, and in which order. A filter keeps the classes that match and those that clips of a match
  // are taken for, or that are taken for a match (alone, a class would say nothing): the most frequent, where there are
  // more than have room for labels.
  function chosen(spec, order, wanted) {
    const all = spec.classes.map((_, i) => i);
    const matched = new Set(all.filter((i) => spec.classes[i].toLowerCase().includes(wanted)));
    const confused = new Map();
    for (const [t, a, num] of spec.cells) {
      if (matched.has(t) && !matched.has(a)) confused.set(a, (confused.get(a) ?? 0) + num);
      if (matched.has(a) && !matched.has(t)) confused.set(t, (confused.get(t) ?? 0) + num);
    }
    const others = [...confused.keys()].sort((a, b) => confused.get(b) - confused.get(a));
    const shown = new Set([...matched, ...others.slice(0, Math.max(0, MOST_LABELLED - matched.size))]);
    return { matched, numConfused: others.length, shown: all.filter((i) => shown.has(i)).sort(ORDERS[order](spec)) };
  }

  const shortened = (text) => (text.length > 24 ? `${text.slice(0, 23)}\u2026` : text);
  const strength = (part) => 0.05 + 0.95 * Math.sqrt(part); // the root tells small shares apart

  // With labels, as the page has it without this script. Gives the drawing and where its cells lie.
  function labelled(spec, view) {
    const { shown } = view;
    const size = shown.length <= 12 ? 34 : shown.length <= 22 ? 26 : 19;
    const longest = Math.max(1, ...shown.map((i) => shortened(spec.classes[i]).length));
    const left = 12 + Math.round(6.7 * longest);
    const top = 12 + Math.round(0.72 * 6.7 * longest);
    const side = size * shown.length;
    const parts = [draw("rect", { class: "track", x: left, y: top, width: side, height: side })];
    shown.forEach((i, place) => {
      const label = shortened(spec.classes[i]);
      const at = { row: top + size * place, column: left + size * place };
      const style = view.matched.has(i) ? "label" : "label other";
      parts.push(draw("text", { class: style, x: left - 8, y: at.row + size / 2 + 4, "text-anchor": "end" }, label));
      const turned = `translate(${at.column + size / 2 + 4} ${top - 7}) rotate(-45)`;
      parts.push(draw("text", { class: style, transform: turned }, label));
    });
    for (const cell of view.cells) {
      const [x, y] = [left + size * view.place.get(cell[1]), top + size * view.place.get(cell[0])];
      const part = cell[2] / spec.totals[cell[0]];
      parts.push(draw("rect", {
        class: `${cell[0] === cell[1] ? "right" : "wrong"}${view.touches(cell) ? "" : " other"}`,
        x, y, width: size, height: size, "fill-opacity": strength(part).toFixed(3),
        "data-true": cell[0], "data-answer": cell[1],
      }));
      if (size < 24) continue;
      const style = strength(part) > 0.7 ? "on" : "off";
      parts.push(draw("text", { class: style, x: x + size / 2, y: y + size / 2 + 4, "text-anchor": "middle" }, count(cell[2])));
    }
    const lines = [...shown, null].map((_, i) => `M${left} ${top + size * i}h${side}M${left + size * i} ${top}v${side}`);
    parts.push(draw("path", { class: "rules", d: lines.join("") }));
    const cursor = draw("rect", { class: "cursor", width: size, height: size, visibility: "hidden" });
    const [width, height] = [left + side + top, top + side + 4];
    const drawing = draw("svg", { class: "matrix", width, height, viewBox: `0 0 ${width} ${height}` }, ...parts, cursor);
    const mark = (row, column) => fill(cursor, { x: left + size * column, y: top + size * row, visibility: "visible" }, []);
    return { drawing, left, top, size, width, mark };
  }

  // Many classes: a picture of a few pixels a cell.
  function compact(spec, view) {
    const num = view.shown.length;
    const size = num > 800 ? 1 : Math.max(2, Math.floor(560 / num));
    const drawing = make("canvas", { class: "compact", width: size * num, height: size * num });
    const pen = drawing.getContext("2d");
    const paint = () => {
      pen.clearRect(0, 0, drawing.width, drawing.height);
      for (const cell of view.cells) {
        // Faint values would be invisible as few pixels, so the scale starts above nothing.
        const alpha = (0.2 + 0.8 * Math.sqrt(cell[2] / spec.totals[cell[0]])) * (view.touches(cell) ? 1 : 0.3);
        pen.fillStyle = cell[0] === cell[1] ? `rgb(43 140 196 / ${alpha})` : `rgb(213 94 0 / ${alpha})`;
        pen.fillRect(size * view.place.get(cell[1]), size * view.place.get(cell[0]), size, size);
      }
    };
    const mark = (row, column) => {
      paint();
      pen.strokeStyle = "#888";
      pen.lineWidth = 2;
      pen.strokeRect(size * column - 2, size * row - 2, size + 4, size + 4);
    };
    paint();
    return { drawing, left: 0, top: 0, size, width: size * num, mark };
  }

  function clipPicture(id) {
    const found = [...document.querySelectorAll("#clips figure[data-clip] picture")];
    return found.find((picture) => picture.closest("figure").dataset.clip === id)?.cloneNode(true);
  }

  // The clips of one cell, the most confident first.
  function listClips(spec, cell, place) {
    const [t, a, num, listed] = cell;
    const names = [spec.classes[t], spec.classes[a]];
    const title = make("h4", {}, make("b", {}, names[0]), t === a ? " recognised: " : " taken for ",
      ...(t === a ? [] : [make("b", {}, names[1]), ": "]),
      `${count(num)} of ${clips(spec.totals[t])} (${percent(num / spec.totals[t])})`);
    const pictures = make("div", { class: "clips" });
    const list = make("ol", { class: "cell-list" });
    const show = (from, to) => listed.slice(from, to).forEach((i) => {
      const id = data.clips[i];
      const sure = percent(spec.confidence[i] / 1000);
      const picture = clipPicture(id);
      if (picture) pictures.append(make("figure", { class: "clip" }, picture, make("figcaption", {}, sure, " ", id)));
      list.append(make("li", { "data-clip": id }, make("span", { class: "sure" }, sure), " ", id));
    });
    show(0, CLIPS_AT_ONCE);
    const parts = [title, pictures, list];
    if (listed.length > CLIPS_AT_ONCE) {
      const more = make("button", { type: "button" }, `the other ${count(listed.length - CLIPS_AT_ONCE)}`);
      more.addEventListener("click", () => { show(CLIPS_AT_ONCE); more.remove(); });
      parts.push(more);
    }
    if (num > listed.length) {
      const said = listed.length ? `${count(num - listed.length)} more are in ` : "They are in ";
      parts.push(make("p", { class: "note" }, said, make("a", { href: spec.predictions }, spec.predictions), "."));
    }
    place.replaceChildren(...parts);
    place.hidden = false;
  }

  function matrixControls(spec, redraw) {
    const order = make("select", {}, ...Object.keys(ORDERS).map((name) => make("option", {}, name)));
    const box = make("input", { type: "search", placeholder: "filter by class", "aria-label": "filter by class" });
    const said = make("span", { class: "note", role: "status" });
    const change = () => {
      const wanted = box.value.trim().toLowerCase();
      const view = chosen(spec, order.value, wanted);
      const [others, all] = [view.shown.length - view.matched.size, view.numConfused];
      const beside = others < all ? `the ${count(others)} of ${count(all)} most` : count(others);
      said.textContent = !wanted ? "" :
        `${count(view.matched.size)} of ${count(spec.classes.length)}${others ? `, with ${beside} confused with them` : ""}`;
      redraw(view);
    };
    order.addEventListener("change", change);
    box.addEventListener("input", change);
    const controls = make("div", { class: "controls" }, make("label", {}, "order ", order), box, said);
    return { controls, change };
  }

  function makeMatrix(figure, spec) {
    const holder = figure.querySelector(".scroll");
    const cells = new Map(spec.cells.map((cell) => [`${cell[0]},${cell[1]}`, cell]));
    const place = make("div", { class: "cell-clips", role: "region", "aria-label": "clips of a cell", "aria-live": "polite", hidden: "" });
    let view, drawn, at = [0, 0];
    const classesAt = ([row, column]) => [view.shown[row], view.shown[column]];
    const cellAt = (where) => cells.get(classesAt(where).join(","));
    const tell = (where) => {
      const [t, a] = classesAt(where);
      const num = cellAt(where)?.[2] ?? 0;
      const total = spec.totals[t];
      return `${spec.classes[t]} called ${spec.classes[a]}: ${count(num)} of ${count(total)}${total ? ` (${percent(num / total)})` : ""}`;
    };
    const scale = () => drawn.drawing.getBoundingClientRect().width / drawn.width;
    const find = (event) => {
      const box = drawn.drawing.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / scale(), (event.clientY - box.top) / scale()];
      const where = [Math.floor((y - drawn.top) / drawn.size), Math.floor((x - drawn.left) / drawn.size)];
      return where.every((i) => i >= 0 && i < view.shown.length) ? where : null;
    };
    const open = (where) => {
      at = where;
      drawn.mark(...where);
      const cell = cellAt(where);
      if (cell) listClips(spec, cell, place);
      else { place.replaceChildren(make("p", {}, tell(where))); place.hidden = false; }
    };
    const move = (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!view.shown.length || (!step && event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault();
      if (!step) { open(at); return; }
      at = at.map((i, axis) => Math.max(0, Math.min(view.shown.length - 1, i + step[axis])));
      drawn.mark(...at);
      follow = () => {
        const box = drawn.drawing.getBoundingClientRect();
        const [y, x] = at.map((i, axis) => ([drawn.top, drawn.left][axis] + drawn.size * (i + 0.5)) * scale());
        showTip(tell(at), box.left + x, box.top + y);
      };
      follow();
    };
    const redraw = (next) => {
      view = next;
      view.place = new Map(view.shown.map((i, where) => [i, where]));
      view.cells = spec.cells.filter(([t, a]) => view.place.has(t) && view.place.has(a));
      view.touches = ([t, a]) => view.matched.has(t) || view.matched.has(a);
      drawn = (view.shown.length <= MOST_LABELLED ? labelled : compact)(spec, view);
      at = [0, 0];
      place.hidden = true;
      hideTip();
      const name = "Confusion matrix. Arrow keys go from cell to cell, Enter lists the clips of one.";
      fill(drawn.drawing, { tabindex: 0, role: "application", "aria-label": name }, []);
      drawn.drawing.classList.add("asked");
      drawn.drawing.addEventListener("pointermove", (event) => {
        const where = find(event);
        follow = null;
        if (where) showTip(tell(where), event.clientX, event.clientY);
        else hideTip();
      });
      drawn.drawing.addEventListener("pointerleave", hideTip);
      drawn.drawing.addEventListener("blur", hideTip);
      drawn.drawing.addEventListener("click", (event) => { const where = find(event); if (where) open(where); });
      drawn.drawing.addEventListener("keydown", move);
      holder.replaceChildren(drawn.drawing);
    };
    const { controls, change } = matrixControls(spec, redraw);
    holder.removeAttribute("tabindex"); // the drawing takes the focus now
    const hint = make("p", { class: "note hint" }, "Click a cell, or press Enter on it, to list its clips.");
    holder.before(controls, make("div", { class: "beside" }, make("div", {}, hint), place));
    figure.querySelector(".beside > div").prepend(holder);
    change();
  }

  quickenTips();
  for (const table of document.querySelectorAll("table.sortable")) {
    makeSortable(table);
    makeFilter(table);
  }
  for (const figure of document.querySelectorAll("figure[data-matrix]")) {
    makeMatrix(figure, data.matrices[Number(figure.dataset.matrix)]);
  }
})();
