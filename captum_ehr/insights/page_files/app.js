// The page: what is at the top, the panels, the keys, and the beginning.

let transport = null;
const drawn = [null, null];

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

async function drawPatients() {
  const sides = shownSides();
  const ask = JSON.stringify(sides);
  drawPatients.asked = ask;
  const wait = () => sides.forEach((_, i) => contentOf(i)?.classList.add("waiting"));
  const waiting = setTimeout(wait, 150);
  const found = await Promise.allSettled(sides.map((side) => viewFor(side.row, settingOf(side))));
  clearTimeout(waiting);
  if (drawPatients.asked !== ask || state.tab !== "patient") return;
  const known = found.map((one) => (one.status === "fulfilled" ? one.value : null));
  const limits = limitsOf(known);
  known.forEach((view, place) => {
    const content = contentOf(place);
    content.classList.remove("waiting");
    const width = Math.max(340, content.clientWidth - 2);
    const problem = () => buildProblem(sides[place], found[place].reason);
    replace(content, view ? buildPatient(view, limits[place], width) : problem());
    drawn[place] = view;
  });
  const both = known.length === 2 && known.every(Boolean);
  const bar = document.getElementById("agreement");
  bar.querySelector(".agreement")?.remove();
  if (both) bar.append(...buildAgreement(known));
  document.body.dataset.ready = ask;
}

function buildProblem(side, reason) {
  return el("div", { class: "problem" },
    el("b", null, `${side.method} could not explain this patient.`), " ", reason?.message || "");
}

// Two sides in the same unit share their colours.
function limitsOf(known) {
  const unit = (view) => overview.methods.find((one) => one.name === view.method).adds_up && view.output;
  const [a, b] = known;
  if (a && b && unit(a) && unit(a) === unit(b)) {
    const limit = Math.max(a.limit, b.limit);
    return [limit, limit];
  }
  return known.map((view) => (view ? view.limit : 0));
}

// How far two explanations of one patient agree, code by code: methods that take codes
// away know only the sum over a code's places.
function buildAgreement([a, b]) {
  if (a.row !== b.row) return [];
  const sums = (view) => {
    const made = new Map();
    for (const line of patientTable(view)) {
      const key = `${line[5]}\n${line[7]}`;
      made.set(key, addUp([made.has(key) ? made.get(key) : 0, line[10]]));
    }
    return made;
  };
  const [x, y] = [sums(a), sums(b)];
  const keys = [...x.keys()].filter((key) => y.has(key));
  const found = correlation(keys.map((key) => x.get(key)), keys.map((key) => y.get(key)));
  if (found === null) return [];
  return [el("span", { class: "agreement" }, "The two agree with a correlation of ",
    el("b", { class: "num" }, fixed(found, 3)), ` over ${several(keys.length, "code or value", "codes and values")}.`)];
}

function correlation(x, y) {
  if ([...x, ...y].includes(null)) return null;
  const mean = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;
  const [mx, my] = [mean(x), mean(y)];
  const dot = (u, mu, v, mv) => u.reduce((sum, one, i) => sum + (one - mu) * (v[i] - mv), 0);
  const size = Math.sqrt(dot(x, mx, x, mx) * dot(y, my, y, my));
  return x.length > 2 && size > 0 ? dot(x, mx, y, my) / size : null;
}

function drawCohorts() {
  shownSides().forEach((side, place) => {
    contentOf(place).classList.remove("waiting");
    replace(contentOf(place), buildCohort(side));
  });
  document.body.dataset.ready = JSON.stringify(shownSides());
}

let pending = false;
function progressed() {
  if (pending) return;
  pending = true;
  setTimeout(() => {
    pending = false;
    if (state.sort.key === "delta") drawSidebar();
    else drawRows();
    if (state.tab === "cohort") drawCohorts();
  }, 60);
}

function draw() {
  drawSidebar();
  document.querySelectorAll(".tab").forEach((one) => {
    one.setAttribute("aria-selected", String(one.dataset.tab === state.tab));
  });
  document.getElementById("compare").setAttribute("aria-pressed", String(state.compare));
  buildPanels();
  cohortError = "";
  const linking = state.compare && state.tab === "patient";
  replace(document.getElementById("agreement"), linking ? buildLink() : []);
  if (state.tab === "cohort") drawCohorts();
  else drawPatients();
  wantParts();
}

// The cohort's numbers come by themselves where that is quick.
function wantParts() {
  const sides = state.tab === "cohort" ? shownSides() : state.sides.slice(0, 1);
  const settings = sides.map(settingOf);
  if (filling && !settings.some((one) => settingKey(one) === filling.key)) stopFilling();
  const next = settings.find((one) => isQuick(one) && rows.some((row) => !partOf(row, one)));
  if (next) fillParts(next, rows).then(() => sides.length > 1 && !cohortError && !filling && wantParts());
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
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width && state.tab === "patient") drawPatients();
    width = window.innerWidth;
  });
  transport = data.views ? offline(data) : live();
  if (data.note) showBanner(data.note, "note");
  buildTop();
  buildSidebar();
  changed();
}

begin();
