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
  document.getElementById("threshold")?.addEventListener("input", () => {
    setThreshold(document.getElementById("threshold").value);
    filter();
  });
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
  state.sort = { key, down: isAgain ? !state.sort.down : key === "score" };
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
  const isTold = said.text && said.score !== null;
  const call = callOf(row);
  return el(
    "div",
    {
      class: `trow${place === state.cursor ? " cursor" : ""}${isOpen ? " open" : ""}`,
      role: "row",
      "data-row": row,
      style: { top: `${place * ROW_HEIGHT}px` },
    },
    el("span", { class: "cell id", title: patient.id }, buildId(patient.id)),
    el("span", { class: "cell label", title: patient.label }, buildOutcome(patient)),
    el("span", { class: "cell score", title: [said.text, said.rank_words].filter(Boolean).join(", ") },
      call === null ? null : buildSymbol(call ? "▲" : "▽", call ? "at or above the threshold" : "below the threshold"),
      said.correct === false ? buildSymbol("≠", "not the class observed") : null,
      isTold ? el("span", { class: "said" }, said.text) : null,
      el("span", { class: "num" }, said.words), buildOff(row)));
}

// Long ones lose their middle: what tells two stays of a patient apart is at the end.
function buildId(id) {
  const cut = Math.max(0, id.length - 8);
  return [el("span", { class: "start" }, id.slice(0, cut)), el("span", { class: "end" }, id.slice(cut))];
}

// A binary outcome as a symbol, for the same two words in every row say little.
function buildOutcome({ label, actual }) {
  if (overview.mode !== "binary" || !label) return label || "–";
  const has = (actual || []).includes(1);
  return buildSymbol(has ? "●" : "○", label, has ? "has" : "");
}

function buildSymbol(symbol, words, kind = "") {
  return el("span", { class: `symbol ${kind}`, title: words }, el("span", { "aria-hidden": "true" }, symbol), el("span", { class: "unseen" }, words));
}

// Where attributions do not add up it is told; else there is nothing to say.
function buildOff(row) {
  const part = partOf(row, state.sides[0]);
  return part?.status === "off" ? buildSymbol("✗", `does not add up: |delta| is ${part.delta_words}`, "off") : null;
}

function moveCursor(step) {
  state.cursor = Math.max(0, Math.min(rows.length - 1, state.cursor + step));
  const top = state.cursor * ROW_HEIGHT;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  const bottom = top + ROW_HEIGHT - scroller.clientHeight;
  if (bottom > scroller.scrollTop) scroller.scrollTop = bottom;
  drawRows();
}

// From which risk on somebody is called positive: nobody has said so at first.
function threshold() {
  const text = document.getElementById("threshold")?.value ?? "";
  return text === "" || !(text >= 0 && text <= 100) ? null : Number(text) / 100;
}

// Who is called can be filtered by once it is said.
function setThreshold(percent) {
  const field = document.getElementById("threshold");
  const call = form.elements.call;
  if (field && field.value !== percent) field.value = percent;
  if (call) call.disabled = threshold() === null;
  if (call?.disabled) call.value = "";
}

function callOf(row, model) {
  const [least, { score }] = [threshold(), prediction(row, model)];
  return least === null || score === null ? null : score >= least;
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

// What a call is, as seen from what was observed; null where either is unknown.
function kindOf(row, model) {
  const [call, { actual }] = [callOf(row, model), overview.patients[row]];
  return call === null || !actual ? null : `${call}-${actual.includes(1)}`;
}

function passes(row, { search, outcome, call, actual, ...others }, codes) {
  const patient = overview.patients[row];
  const said = prediction(row);
  if (call && kindOf(row) !== call) return false;
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
  label: (row) => overview.patients[row][overview.mode === "regression" ? "observed" : "label"],
  score: (row) => prediction(row).score,
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
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    const order = typeof x === "string" ? collator.compare(x, y) : x - y;
    return sign * order || a - b;
  });
}
