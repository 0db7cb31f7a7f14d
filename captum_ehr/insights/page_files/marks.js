// By keyboard: the list of patients, the tabs, and what is drawn over time.

// A step among some elements of which one is in the order of Tab.
function rove(items, from, step) {
  const next = items[items.indexOf(from) + step];
  if (!next) return;
  for (const item of items) item.setAttribute("tabindex", item === next ? "0" : "-1");
  next.focus();
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

function setUpTabs() {
  const tabs = [...document.querySelectorAll(".tab")];
  for (const tab of tabs) {
    tab.addEventListener("click", () => {
      state.tab = tab.dataset.tab;
      changed();
    });
    tab.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS)) return;
      event.preventDefault();
      event.stopPropagation();
      rove(tabs, tab, STEPS[event.key]);
      document.activeElement.click();
    });
  }
}

function drawTabs() {
  for (const tab of document.querySelectorAll(".tab")) {
    const isOpen = tab.dataset.tab === state.tab;
    tab.setAttribute("aria-selected", String(isOpen));
    tab.setAttribute("tabindex", isOpen ? "0" : "-1");
  }
  document.getElementById("panels").setAttribute("aria-labelledby", `tab-${state.tab}`);
}

// The rows that there are say which of all they are.
function markGrid() {
  const grid = document.getElementById("grid");
  grid.setAttribute("aria-rowcount", rows.length + 1);
  const heads = [...grid.querySelectorAll(".thead .cell")];
  for (const head of heads) {
    head.setAttribute("role", "columnheader");
    const sorted = { up: "ascending", down: "descending" }[head.dataset.sorted];
    head.setAttribute("aria-sort", sorted ?? "none");
  }
  for (const row of grid.querySelectorAll(".trow")) {
    const number = Number(row.dataset.row);
    row.id = `row-${number}`;
    row.setAttribute("aria-rowindex", rows.indexOf(number) + 2);
    row.setAttribute("aria-selected", String(row.matches(".open")));
    for (const cell of row.children) cell.setAttribute("role", "gridcell");
  }
  const cursor = grid.querySelector(".trow.cursor");
  if (cursor) grid.setAttribute("aria-activedescendant", cursor.id);
  else grid.removeAttribute("aria-activedescendant");
}

function setUpMarks(root) {
  for (const drawing of root.querySelectorAll(".timeline")) {
    drawing.setAttribute("role", "group");
    drawing.querySelectorAll(".bar, .dot").forEach((mark, i) => {
      mark.setAttribute("tabindex", i ? "-1" : "0");
      mark.setAttribute("role", mark.matches(".bar") ? "button" : "img");
      mark.setAttribute("aria-label", mark.querySelector("title").textContent);
    });
  }
}

function onMark(event) {
  const mark = event.target.closest(".bar, .dot");
  const row = event.target.closest(".codes tbody tr");
  if (mark && ["Enter", " "].includes(event.key)) {
    event.preventDefault();
    jump(event);
  } else if ((mark || row) && event.key in STEPS) {
    event.preventDefault();
    const all = mark ? mark.closest(".timeline").querySelectorAll(".bar, .dot") : row.parentElement.rows;
    rove([...all], mark || row, STEPS[event.key]);
  }
}

// What a bar or dot says, also to who cannot point at it.
function onFocus(event) {
  const tip = document.getElementById("tip");
  const mark = event.type === "focusin" && event.target.closest(".bar, .dot");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("aria-label");
  const { left, bottom } = mark.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  Object.assign(tip.style, { left: `${Math.max(8, Math.min(left, room))}px`, top: `${bottom + 6}px` });
}
