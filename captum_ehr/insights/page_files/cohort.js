// All patients that pass the filters: which codes move the model, and who has them. The
// table is drawn in Python; what a file's filters leave is summed here.

const cohortSort = { key: "mean_abs", down: true };
let filling = new AbortController();
let started = null;
let sortsAnew = false;

// Explain who is wanted, where that is quick or was asked for, until something changes.
async function fill() {
  filling.abort();
  const { signal } = (filling = new AbortController());
  const isCohort = state.tab === "cohort";
  const sides = isCohort ? shownSides() : state.sides.slice(0, 1);
  const settings = sides.map(settingOf);
  if (!settings.some((setting) => settingKey(setting) === started)) started = null;
  for (const [place, setting] of settings.entries()) {
    try {
      if (!transport.isLive) {
        if (isCohort) drawCohort(place, data.cohorts[settingKey(setting)]);
      } else {
        await fillSide(place, setting, isCohort, signal);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (isCohort) replace(contentOf(place), el("p", { class: "problem" }, error.message));
    }
  }
  if (isCohort) document.body.dataset.ready = JSON.stringify(sides);
}

async function fillSide(place, setting, isCohort, signal) {
  const known = partsOf(setting);
  const isWanted = methodOf(setting).quick || started === settingKey(setting);
  const wanted = isWanted ? rows : rows.filter((row) => known.has(row));
  if (!isCohort && wanted.every((row) => known.has(row))) return;
  const question = { rows, explain: wanted, drawn: isCohort, all: state.allCodes, ...setting };
  let tell = null;
  let isDrawn = false;
  const cancel = () => {
    started = null;
    fill();
  };
  const wait = () => {
    contentOf(place).classList.toggle("waiting", !isDrawn);
    tell = showProgress(place, `Explaining ${several(wanted.length, "patient", "patients")} with ${setting.method}`, cancel);
  };
  const waiting = isCohort && setTimeout(wait, 150);
  try {
    for await (const piece of askInLines(question, signal)) {
      if (piece.error) throw new Error(piece.error);
      for (const [row, [delta, delta_words, status]] of Object.entries(piece.deltas)) {
        known.set(Number(row), { delta, delta_words, status });
      }
      drawRows();
      tell?.({ done: wanted.filter((row) => known.has(row)).length, of: wanted.length });
      if (isCohort) drawCohort(place, piece.html, piece.done);
      isDrawn = true;
    }
    if (isCohort) say(`${contentOf(place).querySelector("h2").textContent} explained with ${setting.method}`);
  } finally {
    clearTimeout(waiting);
    if (!signal.aborted) {
      contentOf(place)?.classList.remove("waiting");
      if (isCohort) hideProgress(place);
    }
  }
  if (isCohort && wanted.length < rows.length) contentOf(place).append(buildStart(setting));
}

// Slow methods wait until they are told.
function buildStart(setting) {
  const start = () => {
    started = settingKey(setting);
    button.disabled = true;
    fill();
  };
  const button = el("button", { class: "primary", on: { click: start } }, `Explain all ${rows.length} patients with ${setting.method}`);
  return el("p", null, button, " ", el("span", { class: "muted" }, "one after the other; this may take a while"));
}

function drawCohort(place, html, isDone = true) {
  const content = contentOf(place);
  const before = [...content.querySelectorAll(".codes tbody tr[data-code]")].map(codeKey);
  const isRead = content.querySelector(".codes:hover, .codes:focus-within") !== null;
  const opened = openedCode;
  content.innerHTML = html;
  content.classList.remove("waiting");
  if (!transport.isLive && isFiltered()) sumAgain(content, settingOf(state.sides[place]));
  for (const head of content.querySelectorAll("th[data-key]")) {
    const isKey = head.dataset.key === cohortSort.key;
    head.dataset.sorted = isKey ? (cohortSort.down ? "down" : "up") : "";
    head.tabIndex = 0;
  }
  for (const [i, row] of content.querySelectorAll(".codes tbody tr").entries()) {
    row.tabIndex = i ? -1 : 0;
    row.title = "show the patients who have it";
    row.setAttribute("aria-expanded", "false");
  }
  content.querySelector(".codes")?.classList.toggle("all", state.allCodes);
  if (state.allCodes) content.querySelector("[data-all]")?.remove();
  sortCodes(content);
  // Rows stay where they are while the table fills, and under who reads it.
  if (!sortsAnew && (!isDone || isRead)) keepOrder(content, before);
  sortsAnew = sortsAnew && !isDone;
  const row = [...content.querySelectorAll(".codes tbody tr")].find((one) => codeKey(one) === opened);
  if (row) openCode(row);
  drawConfusion(content, state.sides[place].model);
}

function keyOf({ feature, code }) {
  return `${feature}\n${code}`;
}

function codeKey(row) {
  return keyOf(row.dataset);
}

function keepOrder(content, before) {
  const body = content.querySelector(".codes tbody");
  if (!body || !before.length) return;
  const places = new Map(before.map((key, i) => [key, i]));
  const place = (row) => places.get(codeKey(row)) ?? before.length;
  body.append(...[...body.rows].sort((a, b) => place(a) - place(b)));
}

// Who has a code: below its row, so that the table stays what was read. -------------

let openedCode = null;
const MOST_NAMED = 12;

function openCode(row) {
  const { model } = state.sides[row.closest(".panel").dataset.side];
  const place = overview.codes.findIndex(({ feature, code }) => feature === row.dataset.feature && code === row.dataset.code);
  const having = rows.filter((one) => overview.patients[one].codes.includes(place));
  const names = having.slice(0, MOST_NAMED).map((one) =>
    el("button", { type: "button", class: "link who", "data-open": one }, `${overview.patients[one].id} (${prediction(one, model).words})`));
  const more = having.length > MOST_NAMED ? el("span", { class: "muted" }, `+${having.length - MOST_NAMED} more`) : null;
  const only = el("button", { type: "button", "data-only": row.dataset.code }, `Show only the ${several(having.length, "patient", "patients")} with it`);
  row.setAttribute("aria-expanded", "true");
  row.after(el("tr", { class: "having" }, el("td", { colspan: row.cells.length }, only, names, more)));
}

function toggleCode(row) {
  const body = row.parentElement;
  body.querySelector(".having")?.remove();
  body.querySelector('[aria-expanded="true"]')?.setAttribute("aria-expanded", "false");
  openedCode = openedCode === codeKey(row) ? null : codeKey(row);
  if (openedCode) openCode(row);
}

// What the threshold calls, beside what was observed.
function confusionOf(wanted, model) {
  const counts = { "true-true": 0, "true-false": 0, "false-true": 0, "false-false": 0 };
  for (const kind of wanted.map((row) => kindOf(row, model))) if (kind) counts[kind] += 1;
  return counts;
}

function drawConfusion(content, model) {
  const box = content.querySelector(".confusion");
  if (!box || threshold() === null) return;
  const n = confusionOf(rows, model);
  const share = (part, rest) => (part + rest ? percent(part / (part + rest)) : "not defined");
  const line = (words, ...cells) => el("tr", null, el("th", { scope: "row" }, words), cells.map((count) => el("td", { class: "num" }, String(count))));
  const facts = {
    sensitivity: share(n["true-true"], n["false-true"]),
    specificity: share(n["false-false"], n["true-false"]),
    "positive predictive value": share(n["true-true"], n["true-false"]),
    "negative predictive value": share(n["false-false"], n["false-true"]),
  };
  replace(box,
    el("table", null, el("caption", null, `${several(rows.length, "patient", "patients")}, from a risk of ${percent(threshold())} on`),
      el("thead", null, el("tr", null, el("td"), el("th", { scope: "col" }, "observed"), el("th", { scope: "col" }, "not"))),
      el("tbody", null, line("at or above", n["true-true"], n["true-false"]), line("below", n["false-true"], n["false-false"]))),
    el("dl", null, Object.entries(facts).map(([word, value]) => [el("dt", null, word), el("dd", null, value)])));
}

function sortCodes(content) {
  const { key, down } = cohortSort;
  const body = content.querySelector(".codes tbody");
  if (!body || (key === "mean_abs" && down && transport.isLive)) return;
  const value = (row) => (isWord(key) ? row.dataset[key] : Number(row.dataset[key]));
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (isWord(key)) return (down ? -1 : 1) * x.localeCompare(y);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return down ? y - x : x - y;
  };
  body.append(...[...body.rows].sort(order));
}

function isWord(key) {
  return key === "code" || key === "feature";
}

// A click, or Enter, on the cohort's table.
function onCohort(event) {
  const button = event.target.closest("button");
  if (event.type === "keydown" && (event.key !== "Enter" || button)) return;
  const head = event.target.closest(".codes th[data-key]");
  const row = event.target.closest(".codes tbody tr[data-code]");
  if (button?.dataset.open) {
    openPatient(Number(button.dataset.open));
  } else if (button?.dataset.only) {
    form.elements.code.value = button.dataset.only;
    state.cursor = 0;
    changed();
    document.getElementById("grid").focus();
  } else if (button && "all" in button.dataset) {
    state.allCodes = true;
    changed();
  } else if (head) {
    const { key } = head.dataset;
    cohortSort.down = cohortSort.key === key ? !cohortSort.down : !isWord(key);
    cohortSort.key = key;
    sortsAnew = true;
    changed();
  } else if (row) {
    toggleCode(row);
  }
}

// In a file: what the filters leave ------------------------------------------------

// As Explanation.top: a code's attributions are summed in each patient, and averaged
// over all, counting 0 for who do not have it; null where a sum is no number.
function sumsOf(wanted, setting) {
  const sums = new Map();
  for (const row of wanted) {
    for (const [place, total] of partOf(row, setting).codes) {
      const code = sums.get(place) || { patients: 0, mean: 0, mean_abs: 0 };
      code.patients += 1;
      code.mean += (total ?? NaN) / wanted.length;
      code.mean_abs += Math.abs(total ?? NaN) / wanted.length;
      sums.set(place, code);
    }
  }
  const known = (value) => (Number.isNaN(value) ? null : value);
  return [...sums].map(([place, code]) => ({
    ...overview.codes[place],
    patients: code.patients,
    prevalence: code.patients / wanted.length,
    mean: known(code.mean),
    mean_abs: known(code.mean_abs),
  })).sort((a, b) => (b.mean_abs ?? -1) - (a.mean_abs ?? -1));
}

function sumAgain(content, setting) {
  const sums = new Map(sumsOf(rows, setting).map((code, i) => [keyOf(code), { ...code, rank: i + 1 }]));
  const most = Math.max(...[...sums.values()].map((code) => code.mean_abs ?? 0), 1e-12);
  content.querySelector("h2").textContent = several(rows.length, "patient", "patients");
  for (const node of content.querySelectorAll(".standing, .remark, .performance > summary")) node.prepend("Of all in this file: ");
  const note = content.querySelector(".codes + p");
  if (note) note.textContent = note.textContent.replace(/over all \d+/, `over all ${rows.length}`);
  content.querySelectorAll(".codes tbody tr").forEach((row) => {
    const code = sums.get(codeKey(row));
    if (!code) return row.remove();
    const { mean, mean_abs } = code;
    Object.assign(row.dataset, { ...code, mean: mean ?? NaN, mean_abs: mean_abs ?? NaN });
    const share = { prevalence: code.prevalence, mean: Math.abs(mean ?? 0) / most / 2, mean_abs: (mean_abs ?? 0) / most };
    for (const [name, width] of Object.entries(share)) {
      row.querySelector(`.${name} i`).style.width = `${100 * width}%`;
    }
    const bar = row.querySelector(".mean i");
    bar.style.left = `${mean < 0 ? 50 - 100 * share.mean : 50}%`;
    const isSigned = methodOf(setting).signed;
    bar.style.background = data.bars[isSigned ? Number(mean > 0) : 2];
    row.cells[0].textContent = code.rank;
    row.querySelector(".prevalence .num").textContent = `${code.patients} · ${percent(code.prevalence)}`;
    row.querySelector(".mean .num").textContent = isSigned ? signed(mean) : signed(mean).replace("+", "");
    row.querySelector(".mean_abs .num").textContent = signed(mean_abs).replace("+", "");
  });
}

// As captum_ehr.scene.wording has them.
function signed(value) {
  if (value === null) return "no answer";
  const size = Math.abs(value);
  const exponent = () => value.toExponential(0).replace(/-(\d)$/, "-0$1");
  const words = size < 0.00005 ? exponent() : value.toFixed(size < 0.005 ? 4 : 3);
  return value ? ((value > 0 ? "+" : "") + words).replaceAll("-", "−") : "0";
}

function percent(share) {
  const edge = Math.min(share, 1 - share);
  const digits = edge === 0 || edge >= 0.095 ? 0 : edge >= 0.0095 ? 1 : 2;
  return `${(100 * share).toFixed(digits)} %`;
}
