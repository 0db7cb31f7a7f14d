// What is shown: the patients that pass the filters, and how each side explains.

const state = {
  tab: "patient",
  compare: false,
  linked: true,
  active: 0,
  sides: [],
  filters: { search: "", outcome: "", actual: "", code: "", groups: {} },
  sort: { key: "row", down: false },
  cursor: 0,
};

const listeners = [];
function changed() {
  for (const listener of listeners) listener();
}

function firstSetting() {
  const method = overview.methods[0].name;
  const target = overview.targets[0].length > 1 ? null : 0;
  const baseline = overview.baselines[method][0];
  return { model: 0, method, target, baseline, row: 0 };
}

function settingOf(side) {
  const { model, method, target, baseline } = side;
  return { model, method, target, baseline };
}

function methodOf({ method }) {
  return overview.methods.find((one) => one.name === method);
}

function settingKey(setting) {
  const { model, method, target, baseline } = setting;
  return JSON.stringify([model, method, target, baseline]);
}

// A side with something changed, and what that rules out put right.
function withChange(side, change) {
  const next = { ...side, ...change };
  const baselines = overview.baselines[next.method];
  if (!baselines.includes(next.baseline)) next.baseline = baselines[0];
  const count = overview.targets[next.model].length;
  if (count === 1) next.target = 0;
  else if (next.target !== null && next.target >= count) next.target = null;
  return next;
}

function prediction(row) {
  return overview.predictions[state.sides[0].model][row];
}

// Patients ------------------------------------------------------------------------

const folded = overview.patients.map((one) => one.id.toLowerCase());

function codeMatches() {
  const wanted = state.filters.code.trim().toLowerCase();
  if (!wanted) return null;
  const exact = new Set();
  const partly = new Set();
  overview.codes.forEach((one, place) => {
    const words = [one.code, one.name, `${one.code} ${one.name}`];
    const low = words.map((word) => word.toLowerCase());
    if (low.includes(wanted)) exact.add(place);
    if (low.some((word) => word.includes(wanted))) partly.add(place);
  });
  return exact.size ? exact : partly;
}

function passes(row, codes) {
  const { search, outcome, actual, groups } = state.filters;
  const patient = overview.patients[row];
  const said = prediction(row);
  if (outcome && said.correct !== (outcome === "right")) return false;
  if (actual !== "" && !(patient.actual || []).includes(Number(actual))) return false;
  if (codes && !patient.codes.some((place) => codes.has(place))) return false;
  for (const [place, value] of Object.entries(groups)) {
    if (value !== "" && patient.groups[place] !== value) return false;
  }
  const wanted = search.trim().toLowerCase();
  if (!wanted) return true;
  const words = [folded[row], patient.label.toLowerCase(), said.text.toLowerCase()];
  return words.some((word) => word.includes(wanted));
}

const SORTS = {
  row: (row) => row,
  id: (row) => folded[row],
  label: (row) => overview.patients[row].label,
  score: (row) => prediction(row).score,
  delta: (row) => {
    const part = partOf(row, state.sides[0]);
    return part && part.delta !== null ? Math.abs(part.delta) : -1;
  },
};

function visibleRows() {
  const codes = codeMatches();
  const rows = overview.patients.map((_, row) => row).filter((row) => passes(row, codes));
  const key = SORTS[state.sort.key];
  const sign = state.sort.down ? -1 : 1;
  const collator = new Intl.Collator(undefined, { numeric: true });
  return rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    const order = typeof x === "string" ? collator.compare(x, y) : x - y;
    return sign * order || a - b;
  });
}

function isFiltered() {
  const { search, outcome, actual, code, groups } = state.filters;
  return Boolean(
    search || outcome || actual !== "" || code || Object.values(groups).some(Boolean)
  );
}
