// All patients that pass the filters: which codes move the model, and who has them. The
// table is drawn in Python; what a file's filters leave is summed here.

const cohortSort = { key: "mean_abs", down: true };
let filling = new AbortController();
let started = null;

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
    for await (const piece of askInLines({ rows: wanted, drawn: isCohort, ...setting }, signal)) {
      if (piece.error) throw new Error(piece.error);
      for (const [row, [delta, delta_words]] of Object.entries(piece.deltas)) {
        known.set(Number(row), { delta, delta_words });
      }
      if (state.sort.key === "delta") drawSidebar();
      else drawRows();
      tell?.({ done: wanted.filter((row) => known.has(row)).length, of: wanted.length });
      if (isCohort) drawCohort(place, piece.html);
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
    fill();
  };
  return el("p", null,
    el("button", { class: "primary", on: { click: start } }, `Explain all ${rows.length} patients with ${setting.method}`),
    " ", el("span", { class: "muted" }, "one after the other; this may take a while"));
}

function drawCohort(place, html) {
  const content = contentOf(place);
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
  }
  sortCodes(content);
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
  if (event.type === "keydown" && event.key !== "Enter") return;
  const head = event.target.closest(".codes th[data-key]");
  const row = event.target.closest(".codes tbody tr");
  if (head) {
    const { key } = head.dataset;
    cohortSort.down = cohortSort.key === key ? !cohortSort.down : !isWord(key);
    cohortSort.key = key;
    changed();
  } else if (row) {
    form.elements.code.value = row.dataset.code;
    state.cursor = 0;
    changed();
    document.getElementById("grid").focus();
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
  const key = (code) => `${code.feature}\n${code.code}`;
  const sums = new Map(sumsOf(rows, setting).map((code, i) => [key(code), { ...code, rank: i + 1 }]));
  const most = Math.max(...[...sums.values()].map((code) => code.mean_abs ?? 0), 1e-12);
  content.querySelector("h2").textContent = several(rows.length, "patient", "patients");
  for (const node of content.querySelectorAll(".standing, .remark")) node.prepend("Of all in this file: ");
  const note = content.querySelector(".codes + p");
  if (note) note.textContent = note.textContent.replace(/over all \d+/, `over all ${rows.length}`);
  content.querySelectorAll(".codes tbody tr").forEach((row) => {
    const code = sums.get(key(row.dataset));
    if (!code) return row.remove();
    const { mean, mean_abs } = code;
    Object.assign(row.dataset, { ...code, mean: mean ?? NaN, mean_abs: mean_abs ?? NaN });
    const share = { prevalence: code.prevalence, mean: Math.abs(mean ?? 0) / most / 2, mean_abs: (mean_abs ?? 0) / most };
    for (const [name, width] of Object.entries(share)) {
      row.querySelector(`.${name} i`).style.width = `${100 * width}%`;
    }
    const bar = row.querySelector(".mean i");
    bar.style.left = `${mean < 0 ? 50 - 100 * share.mean : 50}%`;
    bar.style.background = data.bars[Number(mean > 0)];
    row.cells[0].textContent = code.rank;
    row.querySelector(".prevalence .num").textContent = `${code.patients} · ${percent(code.prevalence)}`;
    row.querySelector(".mean .num").textContent = signed(mean);
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
