// All patients that pass the filters: which codes move the model, and who has them.

const TOP = 60;
const cohortSort = { key: "mean_abs", down: true };

// As Explanation.top: a code's attributions are summed in each patient, and averaged
// over all, counting 0 for who do not have it; null where a sum is no number.
function aggregate(rows, setting) {
  const sums = new Map();
  const targets = new Set();
  let [count, lost] = [0, 0];
  for (const row of rows) {
    const part = partOf(row, setting);
    if (!part) continue;
    count += 1;
    targets.add(part.target);
    if (part.codes.some(([, sum]) => sum === null)) lost += 1;
    for (const [place, sum] of part.codes) {
      const one = sums.get(place) || { patients: 0, sum: 0, size: 0 };
      one.patients += 1;
      one.sum = addUp([one.sum, sum]);
      one.size = addUp([one.size, sum === null ? null : Math.abs(sum)]);
      sums.set(place, one);
    }
  }
  const codes = [...sums].map(([place, one]) => ({
    ...overview.codes[place],
    patients: one.patients,
    prevalence: one.patients / count,
    mean: one.sum === null ? null : one.sum / count,
    mean_abs: one.size === null ? null : one.size / count,
  }));
  return { count, codes, remarks: cohortRemarks(targets.size, lost, count) };
}

// What the sums are not good for.
function cohortRemarks(targets, lost, count) {
  return [
    targets > 1 && `The patients are explained for ${targets} different targets: sums and means over them add unlike outputs. Choose one target.`,
    lost > 0 && `${lost} of ${several(count, "patient", "patients")} ${lost === 1 ? "has" : "have"} attributions that are no numbers, as where the model has no answer; there is no mean over them.`,
  ].filter(Boolean);
}

const COHORT_COLUMNS = [
  ["code", "Code"],
  ["feature", "Feature"],
  ["prevalence", "Patients"],
  ["mean", "Mean"],
  ["mean_abs", "Mean |a|"],
];

function buildCohort(side) {
  const setting = settingOf(side);
  const { count, codes, remarks } = aggregate(rows, setting);
  const { key, down } = cohortSort;
  codes.sort((a, b) => {
    if ((a[key] === null) !== (b[key] === null)) return a[key] === null ? 1 : -1;
    const order = typeof a[key] === "string" ? a[key].localeCompare(b[key]) : a[key] - b[key];
    return (down ? -order : order) || b.mean_abs - a.mean_abs;
  });
  const most = Math.max(...codes.map((one) => one.mean_abs), 1e-12);
  const note = count < rows.length ? `${count} of ${rows.length} explained …` : "";
  const target = setting.target === null ? "predicted class" : overview.targets[setting.model][setting.target];
  return el(
    "div",
    { class: "cohort" },
    el("div", { class: "title" },
      el("h2", null, several(count, "patient", "patients")),
      fact("explained", target),
      fact("model", overview.models[setting.model]),
      note ? el("span", { class: "muted", role: "status" }, note) : null),
    buildStanding(setting),
    remarks.map((one) => el("p", { class: "remark", role: "status" }, "! ", one)),
    cohortError ? el("p", { class: "problem" }, cohortError) : null,
    buildStart(setting, count),
    codes.length ? buildCodeTable(codes.slice(0, TOP), most, count) : null,
    codes.length > TOP
      ? el("p", { class: "muted" }, `The first ${TOP} of ${codes.length} codes and values.`)
      : null,
    codes.length
      ? el("p", { class: "muted" }, `a: a code's attributions, summed in each patient; averaged over all ${count} patients, of whom those without it count 0. Click a code for the patients who have it.`)
      : null
  );
}

// How many predictions are right, and how many explanations add up.
function buildStanding(setting) {
  const said = rows.map((row) => overview.predictions[setting.model][row]);
  const judged = said.filter((one) => one.correct !== null);
  const right = judged.filter((one) => one.correct).length;
  const found = rows.map((row) => partOf(row, setting)).filter(Boolean);
  const sums = found.filter((one) => ["exact", "noted", "approximate"].includes(one.status)).length;
  const promised = found.some((one) => one.status !== "none");
  return el(
    "div",
    { class: "standing" },
    judged.length ? fact("predicted right", `${right} of ${judged.length}`) : null,
    found.length && promised ? fact("add up", `${sums} of ${found.length}`) : null,
    found.length && !promised ? fact("sums", "this method promises none") : null
  );
}

// Slow methods wait until they are told.
function buildStart(setting, count) {
  if (isQuick(setting) || !transport.isLive || count === rows.length) return null;
  const start = () => fillParts(setting, rows);
  return el("p", null,
    el("button", { class: "primary", on: { click: start } }, `Explain all ${rows.length} patients with ${setting.method}`),
    " ", el("span", { class: "muted" }, "one after the other; this may take a while"));
}

function isQuick(setting) {
  return overview.methods.find((one) => one.name === setting.method).quick;
}

function sortCohort(key) {
  cohortSort.down = cohortSort.key === key ? !cohortSort.down : key !== "code" && key !== "feature";
  cohortSort.key = key;
  changed();
}

function buildCodeTable(codes, most, count) {
  const limit = Math.max(...codes.map((one) => Math.abs(one.mean)), 1e-12);
  const heads = COHORT_COLUMNS.map(([key, label]) =>
    el("th", { class: key, "data-sorted": cohortSort.key === key ? (cohortSort.down ? "down" : "up") : "" },
      el("button", { on: { click: () => sortCohort(key) } }, label)));
  return el("table", { class: "codes" },
    el("thead", null, el("tr", null, heads)),
    el("tbody", null, codes.map((one) => buildCodeRow(one, most, limit, count))));
}

function buildCodeRow(one, most, limit) {
  const half = (Math.abs(one.mean) / most) * 50;
  const signedBar = el("i", {
    style: { left: one.mean < 0 ? `${50 - half}%` : "50%", width: `${half}%`, background: deep(one.mean) },
  });
  const choose = () => showOwners(one.code);
  return el("tr",
    { tabindex: "0", "data-code": one.code, title: "show the patients who have it",
      on: { click: choose, keydown: (event) => event.key === "Enter" && choose() } },
    el("td", { class: "code" }, codeLabel(one)),
    el("td", { class: "muted" }, one.feature),
    el("td", { class: "prevalence" },
      el("div", { class: "track" }, el("i", { class: "plain", style: { left: 0, width: `${one.prevalence * 100}%` } })),
      el("span", { class: "num" }, `${one.patients} · ${percent(one.prevalence)}`)),
    el("td", { class: "mean" },
      el("div", { class: "track" }, el("u", { style: { left: "50%" } }), signedBar),
      el("span", { class: "num" }, signed(one.mean))),
    el("td", { class: "mean_abs" },
      el("div", { class: "track" }, el("i", { class: "plain", style: { left: 0, width: `${(one.mean_abs / most) * 100}%` } })),
      el("span", { class: "num" }, signed(one.mean_abs).replace("+", ""))));
}

function showOwners(code) {
  state.filters.code = code;
  state.cursor = 0;
  changed();
  document.getElementById("patients").focus();
}
