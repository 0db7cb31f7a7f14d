// The patients: search, filters, and a table of which only what is seen exists.

const ROW_HEIGHT = 30;
let rows = [];
const form = document.getElementById("form");
const scroller = document.getElementById("patients");

function setUpSidebar() {
  const filter = () => {
    state.cursor = 0;
    changed();
  };
  form.addEventListener("input", filter);
  // The fields are empty after the event.
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const head of document.querySelectorAll(".thead .cell")) {
    head.addEventListener("click", () => sortBy(head.dataset.key));
  }
  scroller.addEventListener("scroll", drawRows);
  new ResizeObserver(drawRows).observe(scroller);
  scroller.addEventListener("click", (event) => {
    const row = event.target.closest(".trow");
    if (!row) return;
    state.cursor = rows.indexOf(Number(row.dataset.row));
    openPatient(rows[state.cursor]);
  });
  const names = overview.codes.slice(0, 3000).map(({ code, name }) => el("option", { value: code }, name));
  document.getElementById("codes").append(...names);
}

function sortBy(key) {
  const isAgain = state.sort.key === key;
  state.sort = { key, down: isAgain ? !state.sort.down : key === "score" || key === "delta" };
  changed();
}

function drawSidebar() {
  rows = visibleRows();
  state.cursor = Math.max(0, Math.min(state.cursor, rows.length - 1));
  const all = several(overview.patients.length, "patient", "patients");
  const isAll = rows.length === overview.patients.length;
  document.getElementById("count").textContent = isAll ? all : `${rows.length} of ${all}`;
  document.getElementById("reset").hidden = !isFiltered();
  for (const head of document.querySelectorAll(".thead .cell")) {
    const isKey = head.dataset.key === state.sort.key;
    head.dataset.sorted = isKey ? (state.sort.down ? "down" : "up") : "";
  }
  drawRows();
}

function drawRows() {
  const body = document.getElementById("rows");
  body.style.height = `${rows.length * ROW_HEIGHT}px`;
  const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - 5);
  const count = Math.ceil(scroller.clientHeight / ROW_HEIGHT) + 10;
  replace(body, rows.slice(first, first + count).map((row, i) => buildRow(row, first + i)));
  if (!rows.length) replace(body, el("p", { class: "muted none" }, "Nobody matches."));
  markGrid();
}

function buildRow(row, place) {
  const patient = overview.patients[row];
  const said = prediction(row);
  const isOpen = shownSides().some((side) => side.row === row);
  const isTold = overview.classes.length > 2 && said.score !== null;
  return el(
    "div",
    {
      class: `trow${place === state.cursor ? " cursor" : ""}${isOpen ? " open" : ""}`,
      role: "row",
      "data-row": row,
      style: { top: `${place * ROW_HEIGHT}px` },
    },
    el("span", { class: "cell id", title: patient.id }, patient.id),
    el("span", { class: "cell label", title: patient.label }, patient.label || "–"),
    el("span", { class: "cell score", title: said.text },
      said.correct === false ? el("i", { class: "wrong", title: "wrong" }, "✗") : null,
      isTold ? el("span", { class: "said" }, said.text) : null,
      el("span", { class: "num" }, said.words)),
    el("span", { class: "cell delta num" }, partOf(row, state.sides[0])?.delta_words ?? "–")
  );
}

function moveCursor(step) {
  state.cursor = Math.max(0, Math.min(rows.length - 1, state.cursor + step));
  const top = state.cursor * ROW_HEIGHT;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  const bottom = top + ROW_HEIGHT - scroller.clientHeight;
  if (bottom > scroller.scrollTop) scroller.scrollTop = bottom;
  drawRows();
}

// Who passes the filters ------------------------------------------------------------

const folded = overview.patients.map((patient) => patient.id.toLowerCase());

function filters() {
  return Object.fromEntries([...new FormData(form)].map(([name, text]) => [name, text.trim()]));
}

function isFiltered() {
  return Object.values(filters()).some(Boolean);
}

function codesLike(words) {
  const wanted = words.toLowerCase();
  if (!wanted) return null;
  const exact = new Set();
  const partly = new Set();
  overview.codes.forEach(({ code, name }, place) => {
    const names = [code, name, `${code} ${name}`].map((text) => text.toLowerCase());
    if (names.includes(wanted)) exact.add(place);
    if (names.some((text) => text.includes(wanted))) partly.add(place);
  });
  return exact.size ? exact : partly;
}

function passes(row, { search, outcome, actual, ...others }, codes) {
  const patient = overview.patients[row];
  const said = prediction(row);
  if (outcome && said.correct !== (outcome === "right")) return false;
  if (actual && !(patient.actual || []).includes(Number(actual))) return false;
  if (codes && !patient.codes.some((place) => codes.has(place))) return false;
  if (patient.groups.some((group, i) => others[`group ${i}`] && others[`group ${i}`] !== group)) return false;
  const names = [folded[row], patient.label.toLowerCase(), said.text.toLowerCase()];
  return names.some((text) => text.includes(search.toLowerCase()));
}

const SORTS = {
  row: (row) => row,
  id: (row) => folded[row],
  label: (row) => overview.patients[row].label,
  score: (row) => prediction(row).score,
  delta: (row) => {
    const delta = partOf(row, state.sides[0])?.delta ?? null;
    return delta === null ? -1 : Math.abs(delta);
  },
};

function visibleRows() {
  const wanted = filters();
  const codes = codesLike(wanted.code);
  const passing = overview.patients.map((_, row) => row).filter((row) => passes(row, wanted, codes));
  const key = SORTS[state.sort.key];
  const sign = state.sort.down ? -1 : 1;
  const collator = new Intl.Collator(undefined, { numeric: true });
  return passing.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    const order = typeof x === "string" ? collator.compare(x, y) : x - y;
    return sign * order || a - b;
  });
}
