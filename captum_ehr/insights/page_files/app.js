// The page: what is at the top, the panels, the keys, and the beginning.

let transport = null;

function shownSides() {
  return state.compare ? state.sides : state.sides.slice(0, 1);
}

// What is being drawn: exports wait for it.
let drawing = null;

function setUpTop() {
  const buttons = {
    drawer: () => openDrawer(!document.body.classList.contains("drawn")),
    compare: toggleCompare,
    "export-csv": exporting(exportCsv),
    "export-png": exporting(exportPng),
    "export-html": exporting(exportHtml),
  };
  for (const [id, act] of Object.entries(buttons)) document.getElementById(id)?.addEventListener("click", act);
}

// Where there is one column the list of patients is opened when it is wanted.
function openDrawer(isOpen) {
  document.body.classList.toggle("drawn", isOpen);
  document.getElementById("drawer").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) drawRows();
}

function toggleCompare() {
  state.compare = !state.compare;
  state.active = 0;
  state.sides[1] = otherSide();
  changed();
}

// To begin a comparison with: the next method that this page holds.
function otherSide() {
  const first = state.sides[0];
  const at = overview.methods.findIndex(({ name }) => name === first.method);
  const order = [...overview.methods.slice(at + 1), ...overview.methods.slice(0, at)];
  const preferred = order.filter(({ name }) => name === "IntegratedGradients");
  const candidates = [...preferred, ...order].map(({ name }) => withChange(first, { method: name }));
  const others = overview.baselines[first.method].map((baseline) => withChange(first, { baseline }));
  const different = [...candidates, ...others].filter(
    (side) => settingKey(side) !== settingKey(first) && transport.holds(side)
  );
  return different[0] || { ...first };
}

function openPatient(row) {
  const linked = !state.compare || state.linked;
  state.sides.forEach((side, i) => {
    if (linked || i === state.active) side.row = row;
  });
  state.tab = "patient";
  openDrawer(false);
  changed();
}

function change(place, what) {
  const next = withChange(state.sides[place], what);
  if (transport.holds(next)) state.sides[place] = next;
  changed();
}

// Each side says how it explains ---------------------------------------------------

function buildControls(place) {
  const { model, method } = state.sides[place];
  const named = (names) => names.map((name) => [name, name]);
  const numbered = (names) => names.map((name, i) => [i, name]);
  const targets = overview.targets[model];
  return el("div", { class: "controls" },
    overview.models.length > 1 ? buildControl(place, "Model", numbered(overview.models)) : null,
    buildControl(place, "Method", named(overview.methods.map(({ name }) => name))),
    targets.length > 1 ? buildControl(place, "Target", [[null, "predicted class"], ...numbered(targets)]) : null,
    buildControl(place, "Baseline", named(overview.baselines[method])));
}

// Of the options those that this page holds.
function buildControl(place, label, options) {
  const key = label.toLowerCase();
  const side = state.sides[place];
  const known = options.filter(([value]) => transport.holds(withChange(side, { [key]: value })));
  const pick = () => change(place, { [key]: known[select.selectedIndex][0] });
  const select = el("select", { "aria-label": label, on: { change: pick } },
    known.map(([value, words]) => el("option", { selected: value === side[key] }, shorten(words, 48))));
  const words = shorten(known.find(([value]) => value === side[key])?.[1] ?? "", 48);
  const chosen = el("b", { class: "chosen", "aria-hidden": "true" }, words);
  return el("label", null, el("span", null, label), select, chosen);
}

function buildLink() {
  const box = el("input", { type: "checkbox", id: "linked", on: {
    change: () => {
      state.linked = box.checked;
      state.active = state.linked ? 0 : 1;
      if (state.linked) state.sides[1].row = state.sides[0].row;
      changed();
    },
  } });
  box.checked = state.linked;
  return el("label", { class: "check" }, box, el("span", null, "same patient"));
}

// Panels --------------------------------------------------------------------------

function buildPanels() {
  const panels = document.getElementById("panels");
  const shape = state.compare ? "two" : "one";
  if (panels.className !== shape) {
    panels.className = shape;
    replace(panels, shownSides().map((_, place) => buildPanel(place)));
  }
  // What is shown stays until what follows is there.
  shownSides().forEach((_, place) => replace(document.querySelector(`.panel[data-side="${place}"] .head`), buildControls(place)));
  markActive();
}

function buildPanel(place) {
  const pick = () => {
    if (state.compare && !state.linked && state.active !== place) {
      state.active = place;
      markActive();
    }
  };
  return el("article", { class: "panel", "data-side": place, on: { click: pick } },
    el("div", { class: "head" }), el("div", { class: "progress" }), el("div", { class: "content" }));
}

function markActive() {
  document.querySelectorAll(".panel").forEach((panel, place) => {
    panel.classList.toggle("active", state.compare && !state.linked && place === state.active);
  });
}

function contentOf(place) {
  return document.querySelector(`.panel[data-side="${place}"] .content`);
}

// Somebody has done something.
function changed() {
  clearError();
  writeAddress();
  draw();
}

// Draw all that depends on the state.
function draw() {
  drawSidebar();
  drawTabs();
  document.getElementById("compare").setAttribute("aria-pressed", String(state.compare));
  buildPanels();
  const linking = state.compare && state.tab === "patient";
  replace(document.getElementById("agreement"), linking ? buildLink() : []);
  abandon(state.tab === "patient" ? shownSides() : []);
  const views = state.tab === "patient" && drawPatients();
  const sums = fill();
  drawing = views || sums;
}

// Until all that is asked for is drawn.
async function whenDrawn() {
  for (let last = null; last !== drawing; ) {
    last = drawing;
    await last;
  }
}

// Keys ----------------------------------------------------------------------------

function onKey(event) {
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    openDrawer(true);
    document.getElementById("search").select();
    document.getElementById("search").focus();
  } else if (event.key === "Escape" && typing) {
    event.target.blur();
  } else if (["ArrowDown", "ArrowUp", "PageDown", "PageUp"].includes(event.key)) {
    if (typing && event.target.id !== "search") return;
    if (event.target.closest("#panels") || !scroller.offsetParent) return;
    event.preventDefault();
    const step = event.key.startsWith("Page") ? 10 : 1;
    moveCursor(event.key.endsWith("Down") ? step : -step);
  } else if (event.key === "Enter" && (event.target.id === "search" || event.target.id === "grid" || event.target === document.body)) {
    if (rows.length) openPatient(rows[state.cursor]);
  }
}

function begin() {
  document.addEventListener("keydown", onKey);
  const panels = document.getElementById("panels");
  panels.addEventListener("click", jump);
  panels.addEventListener("click", onCohort);
  panels.addEventListener("keydown", onCohort);
  panels.addEventListener("keydown", onMark);
  for (const kind of ["focusin", "focusout"]) panels.addEventListener(kind, onFocus);
  transport = data.views ? offline() : live();
  if (data.note) showBanner(data.note, "note");
  setUpTop();
  setUpTabs();
  setUpSidebar();
  setUpPrint();
  setUpAddress();
  draw();
}

begin();
