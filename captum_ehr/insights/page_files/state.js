// What is shown: the patients that pass the filters, and how each side explains.

const state = {
  tab: "patient",
  compare: false,
  linked: true,
  active: 0,
  sides: [],
  // The highest risk first, where scores are of one thing.
  sort: overview.predictions[0].some(({ rank }) => rank) ? { key: "score", down: true } : { key: "row", down: false },
  allCodes: false,
  cursor: 0,
};

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
  return overview.methods.find(({ name }) => name === method);
}

function settingKey(setting) {
  return JSON.stringify(Object.values(settingOf(setting)));
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

// The list of patients is the first side's.
function prediction(row, model = state.sides[0].model) {
  return overview.predictions[model][row];
}

function targetOf({ model, target }) {
  return target === null ? "predicted class" : overview.targets[model][target];
}
