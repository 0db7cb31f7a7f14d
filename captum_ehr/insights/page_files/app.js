// The page: what is at the top, the panels, the keys, and the beginning.

let transport = null;

function shownSides() {
  return state.compare ? state.sides : state.sides.slice(0, 1);
}

function showBanner(text, kind) {
  const banner = document.getElementById("banner");
  banner.className = kind || "";
  banner.textContent = text;
  banner.hidden = !text;
}

function buildTop() {
  const tab = (key, label) =>
    el("button", { class: "tab", "data-tab": key, on: { click: () => setTab(key) } }, label);
  replace(
    document.getElementById("top"),
    el("h1", null, overview.title),
    el("nav", { role: "tablist" }, tab("patient", "Patient"), tab("cohort", "Cohort")),
    el("button", { id: "compare", "aria-pressed": "false", on: { click: toggleCompare } }, "Compare"),
    el("span", { class: "space" }),
    el("span", { class: "muted" }, "Export"),
    el("button", { id: "export-csv", on: { click: exporting(exportCsv) } }, "CSV"),
    el("button", { id: "export-png", on: { click: exporting(exportPng) } }, "PNG"),
    transport.isLive
      ? el("button", { id: "export-html", on: { click: exporting(exportHtml) } }, "HTML")
      : null
  );
}

function setTab(tab) {
  state.tab = tab;
  changed();
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
  const at = overview.methods.findIndex((one) => one.name === first.method);
  const order = [...overview.methods.slice(at + 1), ...overview.methods.slice(0, at)];
  const preferred = order.filter((one) => one.name === "IntegratedGradients");
  const candidates = [...preferred, ...order].map((one) => withChange(first, { method: one.name }));
  const others = overview.baselines[first.method].map((one) => withChange(first, { baseline: one }));
  const different = [...candidates, ...others].filter(
    (one) => settingKey(one) !== settingKey(first) && transport.holds(one)
  );
  return different[0] || { ...first };
}

function openPatient(row) {
  const linked = !state.compare || state.linked;
  state.sides.forEach((side, i) => {
    if (linked || i === state.active) side.row = row;
  });
  state.tab = "patient";
  changed();
}

function change(place, what) {
  const next = withChange(state.sides[place], what);
  if (transport.holds(next)) state.sides[place] = next;
  changed();
}

// Each side says how it explains ---------------------------------------------------

function labelled(name, control) {
  return control ? el("label", null, el("span", null, name), control) : null;
}

function buildControls(place) {
  const side = state.sides[place];
  const can = (what) => transport.holds(withChange(side, what));
  const models = overview.models.map((name, i) => [String(i), name]).filter(([i]) => can({ model: Number(i) }));
  const methods = overview.methods.map((one) => [one.name, one.name]).filter(([name]) => can({ method: name }));
  const targets = overview.targets[side.model].map((name, i) => [String(i), name]);
  const known = [["", "predicted class"], ...targets].filter(([i]) => can({ target: i === "" ? null : Number(i) }));
  const baselines = overview.baselines[side.method].map((name) => [name, name]).filter(([name]) => can({ baseline: name }));
  const target = side.target === null ? "" : String(side.target);
  const pick = (label, value, options, then) =>
    labelled(label, picker(label, value, options, (chosen) => change(place, then(chosen))));
  return el(
    "div",
    { class: "controls" },
    overview.models.length > 1 ? pick("Model", String(side.model), models, (v) => ({ model: Number(v) })) : null,
    pick("Method", side.method, methods, (v) => ({ method: v })),
    targets.length > 1
      ? pick("Target", target, known, (v) => ({ target: v === "" ? null : Number(v) }))
      : null,
    pick("Baseline", side.baseline, baselines, (v) => ({ baseline: v }))
  );
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
  shownSides().forEach((_, place) => replace(controlsOf(place), buildControls(place)));
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
    el("div", { class: "head" }), el("div", { class: "content" }));
}

function controlsOf(place) {
  return document.querySelector(`.panel[data-side="${place}"] .head`);
}

function markActive() {
  document.querySelectorAll(".panel").forEach((panel, place) => {
    panel.classList.toggle("active", state.compare && !state.linked && place === state.active);
  });
}

function contentOf(place) {
  return document.querySelector(`.panel[data-side="${place}"] .content`);
}

function draw() {
  drawSidebar();
  document.querySelectorAll(".tab").forEach((one) => {
    one.setAttribute("aria-selected", String(one.dataset.tab === state.tab));
  });
  document.getElementById("compare").setAttribute("aria-pressed", String(state.compare));
  buildPanels();
  const linking = state.compare && state.tab === "patient";
  replace(document.getElementById("agreement"), linking ? buildLink() : []);
  if (state.tab === "patient") drawPatients();
  fill();
}

// Keys ----------------------------------------------------------------------------

function onKey(event) {
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    document.getElementById("search").select();
    document.getElementById("search").focus();
  } else if (event.key === "Escape" && typing) {
    event.target.blur();
  } else if (["ArrowDown", "ArrowUp", "PageDown", "PageUp"].includes(event.key)) {
    if (typing && event.target.id !== "search") return;
    if (event.target.closest("#panels")) return;
    event.preventDefault();
    const step = event.key.startsWith("Page") ? 10 : 1;
    moveCursor(event.key.endsWith("Down") ? step : -step);
  } else if (event.key === "Enter" && (event.target.id === "search" || event.target.id === "patients" || event.target === document.body)) {
    if (rows.length) openPatient(rows[state.cursor]);
  }
}

function begin() {
  state.sides = [firstSetting(), firstSetting()];
  document.body.classList.toggle("many", overview.classes.length > 2);
  listeners.push(draw);
  document.addEventListener("keydown", onKey);
  const panels = document.getElementById("panels");
  panels.addEventListener("click", jump);
  panels.addEventListener("click", onCohort);
  panels.addEventListener("keydown", onCohort);
  transport = data.views ? offline() : live();
  if (data.note) showBanner(data.note, "note");
  buildTop();
  buildSidebar();
  changed();
}

begin();
