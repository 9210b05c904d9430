// The most probable classes of each task, as bars. Names are only ever set as text, never as markup.

export const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

function make(name, className, ...children) {
  const element = document.createElement(name);
  element.className = className;
  element.append(...children);
  return element;
}

// Rows are kept from one answer to the next: a reader's place in them is not lost, and little is drawn anew.
export function showBars(box, tasks, { known = true } = {}) {
  const names = Object.keys(tasks);
  const key = names.map((task) => `${task} ${tasks[task].length}`).join("\n");
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(...names.map((task) => {
      const rows = tasks[task].map(() =>
        make("div", "row", make("span", "name"), make("div", "track", make("div", "fill")), make("span", "share")));
      const title = names.length > 1 ? [make("h3", "", task)] : [];
      return make("div", "task", ...title, ...rows);
    }));
  }
  box.classList.toggle("unknown", !known);
  names.forEach((task, place) => {
    const rows = box.children[place].querySelectorAll(".row");
    tasks[task].forEach((guess, rank) => {
      const row = rows[rank];
      row.querySelector(".name").textContent = guess.class;
      row.querySelector(".share").textContent = percent(guess.probability);
      row.querySelector(".fill").style.width = `${100 * guess.probability}%`;
    });
  });
}

export function clearBars(box, words) {
  delete box.dataset.key;
  box.replaceChildren(make("p", "note", words));
}
