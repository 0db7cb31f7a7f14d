// The patients: search, filters, and a table of which only what is seen exists.

const ROW_HEIGHT = 30;
const columns = [
  ["id", "Patient"],
  ["label", "Observed"],
  ["score", "Predicted"],
  ["delta", "|delta|"],
];
let rows = [];

function option(value, label, chosen) {
  return el("option", { value, selected: chosen }, label);
}

function picker(label, value, options, pick) {
  const select = el(
    "select",
    { "aria-label": label, on: { change: () => pick(select.value) } },
    options.map(([key, words]) => option(key, shorten(words, 48), key === value))
  );
  return select;
}

function setFilter(change) {
  Object.assign(state.filters, change);
  state.cursor = 0;
  changed();
}

function buildFilters() {
  const made = [];
  const judged = overview.predictions[0].some((one) => one.correct !== null);
  const { outcome, actual, groups } = state.filters;
  if (judged) {
    const options = [["", "right and wrong"], ["right", "right"], ["wrong", "wrong"]];
    made.push(picker("Prediction", outcome, options, (v) => setFilter({ outcome: v })));
  }
  if (overview.classes.length > 1 && judged) {
    const options = overview.classes.map((name, i) => [String(i), `observed: ${name}`]);
    const all = [["", "all classes"], ...options];
    made.push(picker("Class", actual, all, (v) => setFilter({ actual: v })));
  }
  overview.groups.forEach((name, place) => {
    const values = [...new Set(overview.patients.map((one) => one.groups[place]))].sort();
    const all = [["", `${name}: all`], ...values.map((v) => [v, `${name}: ${v}`])];
    made.push(
      picker(name, groups[place] || "", all, (v) =>
        setFilter({ groups: { ...groups, [place]: v } })
      )
    );
  });
  return made;
}

function buildCodeFilter() {
  const list = el(
    "datalist",
    { id: "codes" },
    overview.codes
      .slice(0, 3000)
      .map((one) => el("option", { value: one.code }, one.name))
  );
  const input = el("input", {
    type: "search",
    id: "code",
    list: "codes",
    placeholder: "has code or name …",
    "aria-label": "Code that the patients have",
    on: { input: () => setFilter({ code: input.value }) },
  });
  input.value = state.filters.code;
  return [input, list];
}

function buildSidebar() {
  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Search patients (press /)",
    "aria-label": "Search patients",
    on: { input: () => setFilter({ search: search.value }) },
  });
  const head = el("div", { class: "thead", role: "row" }, columns.map(buildHead));
  const body = el("div", { class: "tbody", id: "rows" });
  const scroller = el(
    "div",
    {
      id: "patients",
      class: "scroller",
      tabindex: "0",
      role: "grid",
      "aria-label": "Patients",
      on: { scroll: drawRows },
    },
    body
  );
  new ResizeObserver(drawRows).observe(scroller);
  replace(
    document.getElementById("sidebar"),
    search,
    el("div", { id: "filters" }),
    el("div", { class: "count" },
      el("span", { id: "count", "aria-live": "polite" }),
      el("button", { id: "reset", class: "link", on: { click: resetFilters } }, "show all")
    ),
    head,
    scroller,
    el("div", { class: "hint" }, "/ search · ↑ ↓ move · Enter open")
  );
}

function buildHead([key, label]) {
  const sort = () => {
    const again = state.sort.key === key;
    state.sort = { key, down: again ? !state.sort.down : key === "score" || key === "delta" };
    changed();
  };
  return el("button", { class: `cell ${key}`, "data-key": key, on: { click: sort } }, label);
}

function resetFilters() {
  Object.assign(state.filters, { search: "", outcome: "", actual: "", code: "", groups: {} });
  document.getElementById("search").value = "";
  state.cursor = 0;
  changed();
}

function drawSidebar() {
  rows = visibleRows();
  state.cursor = Math.max(0, Math.min(state.cursor, rows.length - 1));
  const filters = document.getElementById("filters");
  const typing = document.activeElement && document.activeElement.id === "code";
  if (!typing) replace(filters, ...buildFilters(), ...buildCodeFilter());
  const all = overview.patients.length;
  document.getElementById("count").textContent =
    rows.length === all
      ? several(all, "patient", "patients")
      : `${rows.length} of ${several(all, "patient", "patients")}`;
  document.getElementById("reset").hidden = !isFiltered();
  for (const head of document.querySelectorAll(".thead .cell")) {
    const own = head.dataset.key === state.sort.key;
    head.dataset.sorted = own ? (state.sort.down ? "down" : "up") : "";
  }
  drawRows();
}

function drawRows() {
  const scroller = document.getElementById("patients");
  const body = document.getElementById("rows");
  if (!scroller) return;
  body.style.height = `${rows.length * ROW_HEIGHT}px`;
  const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - 5);
  const count = Math.ceil(scroller.clientHeight / ROW_HEIGHT) + 10;
  replace(
    body,
    rows.slice(first, first + count).map((row, i) => buildRow(row, first + i))
  );
  if (!rows.length) replace(body, el("p", { class: "muted none" }, "Nobody matches."));
}

function buildRow(row, place) {
  const patient = overview.patients[row];
  const said = prediction(row);
  const part = partOf(row, state.sides[0]);
  const open = (state.compare ? state.sides : state.sides.slice(0, 1)).some(
    (side) => side.row === row
  );
  return el(
    "div",
    {
      class: `trow${place === state.cursor ? " cursor" : ""}${open ? " open" : ""}`,
      role: "row",
      "data-row": row,
      style: { top: `${place * ROW_HEIGHT}px` },
      on: {
        click: () => {
          state.cursor = place;
          openPatient(row);
        },
      },
    },
    el("span", { class: "cell id", title: patient.id }, patient.id),
    el("span", { class: "cell label", title: patient.label }, patient.label || "–"),
    el("span", { class: "cell score", title: said.text }, ...buildPrediction(said)),
    el("span", { class: "cell delta num" }, part ? part.delta_words : "–")
  );
}

function buildPrediction(said) {
  const mark = said.correct === false ? el("i", { class: "wrong", title: "wrong" }, "✗") : null;
  const classes = overview.classes.length > 2 && said.score !== null ? el("span", { class: "said" }, said.text) : null;
  return [mark, classes, el("span", { class: "num" }, said.words)];
}

function moveCursor(step) {
  state.cursor = Math.max(0, Math.min(rows.length - 1, state.cursor + step));
  const scroller = document.getElementById("patients");
  const top = state.cursor * ROW_HEIGHT;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  const bottom = top + ROW_HEIGHT - scroller.clientHeight;
  if (bottom > scroller.scrollTop) scroller.scrollTop = bottom;
  drawRows();
}
