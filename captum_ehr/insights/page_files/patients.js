// One patient on each side, as Python has drawn it.

// By side, what is being explained.
const asked = new Map();

async function drawPatients() {
  const sides = shownSides();
  const ask = JSON.stringify(sides);
  const turn = (drawPatients.turn = Symbol(ask)); // of two that ask the same, the last one draws
  const wait = () => sides.forEach((side, place) => startWaiting(side, place));
  const waiting = setTimeout(wait, 150);
  const isOld = () => drawPatients.turn !== turn || state.tab !== "patient";
  const answers = await Promise.all(sides.map(async (side, place) => {
    const [{ value, reason }] = await Promise.allSettled([asking(side)]);
    if (!isOld()) drawSide(side, place, value, reason);
    return value;
  }));
  clearTimeout(waiting);
  if (isOld()) return;
  answers.forEach((value, place) => value && offerWhatIf(contentOf(place), sides[place], value));
  say(sides.map((side, place) => sayingOf(side, contentOf(place))).join(" "));
  shareColors(sides);
  const bar = document.getElementById("agreement");
  bar.querySelector(".agreement")?.remove();
  const [a, b] = answers;
  if (a && b && sides[0].row === sides[1].row) bar.append(...buildAgreement(a.rows, b.rows));
  document.body.dataset.ready = ask;
}

function drawSide(side, place, view, reason) {
  const content = contentOf(place);
  content.classList.remove("waiting");
  hideProgress(place);
  if (view) content.innerHTML = view.html;
  else replace(content, buildProblem(side, reason));
  setUpMarks(content);
}

// A view that is on its way already is not asked for again.
function asking(side) {
  const key = JSON.stringify(side);
  if (!asked.has(key)) {
    const stop = new AbortController();
    const one = { stop, tell: null };
    const watch = { signal: stop.signal, tell: (piece) => one.tell?.(piece) };
    one.answer = viewFor(side.row, settingOf(side), watch).finally(() => {
      if (asked.get(key) === one) asked.delete(key);
    });
    asked.set(key, one);
  }
  return asked.get(key).answer;
}

// What nobody looks at any more is not computed any further.
function abandon(sides) {
  const wanted = sides.map((side) => JSON.stringify(side));
  for (const [key, { stop }] of asked) {
    if (wanted.includes(key)) continue;
    asked.delete(key);
    stop.abort();
  }
  if (!sides.length) [0, 1].forEach(hideProgress);
}

function startWaiting(side, place) {
  const one = asked.get(JSON.stringify(side));
  if (!one || !contentOf(place)) return;
  contentOf(place).classList.add("waiting");
  const words = `Explaining ${overview.patients[side.row].id} with ${side.method}`;
  one.tell = showProgress(place, words, () => one.stop.abort());
}

function sayingOf(side, content) {
  const words = content.querySelector(".badge")?.textContent ?? content.textContent;
  return `${overview.patients[side.row].id}, ${side.method}: ${words}`;
}

function buildProblem(side, reason) {
  if (reason?.name === "AbortError") {
    return el("div", { class: "problem" }, el("b", null, "Cancelled."), " ",
      el("button", { on: { click: draw } }, `Explain with ${side.method}`));
  }
  return el("div", { class: "problem" },
    el("b", null, `${side.method} could not explain this patient.`), " ", reason?.message || "");
}

// Two sides in the same unit share the colours of the wider scale.
function shareColors(sides) {
  const roots = sides.map((_, place) => contentOf(place).querySelector(".ehr"));
  if (roots.length < 2 || !roots.every(Boolean)) return;
  const [a, b] = sides.map((side, i) => methodOf(side).adds_up && roots[i].dataset.output);
  if (!a || a !== b) return;
  roots.sort((x, y) => Number(x.dataset.limit) - Number(y.dataset.limit));
  const [narrow, wide] = roots;
  const limit = Number(wide.dataset.limit);
  for (const node of narrow.querySelectorAll(".chip, .dot:not(.imputed), .values td[data-attribution]")) {
    const attribution = Number(node.dataset.attribution);
    if (Number.isNaN(attribution)) continue;
    const [background, color] = colorsOf(attribution, limit);
    if (node.matches(".dot")) node.setAttribute("fill", background);
    else Object.assign(node.style, { background, color });
  }
  for (const end of ["-1", "1"]) {
    const [word, other] = roots.map((root) => root.querySelector(`[data-end="${end}"]`));
    if (word && other) word.textContent = other.textContent;
  }
}

// A bar of the drawing leads to its visit.
function jump(event) {
  const bar = event.target.closest(".bar[data-visit]");
  if (!bar) return;
  const visit = bar.closest(".ehr").querySelector(`.visit[data-visit="${bar.dataset.visit}"]`);
  const fold = visit.closest("details");
  if (fold) fold.open = true;
  visit.scrollIntoView({ block: "center", behavior: "smooth" });
  visit.classList.add("flash");
  setTimeout(() => visit.classList.remove("flash"), 1200);
}

// How far two explanations of one patient agree, code by code: methods that take codes
// away know only the sum over a code's places.
function buildAgreement(a, b) {
  const sums = (rows) => {
    const totals = new Map();
    for (const [feature, , , code, , , , , attribution] of rows) {
      const key = keyOf({ feature, code });
      totals.set(key, (totals.get(key) ?? 0) + (attribution ?? NaN));
    }
    return totals;
  };
  const [x, y] = [sums(a), sums(b)];
  const keys = [...x.keys()].filter((key) => y.has(key));
  const agreement = correlation(keys.map((key) => x.get(key)), keys.map((key) => y.get(key)));
  if (agreement === null) return [];
  return [el("span", { class: "agreement" }, "The two agree with a correlation of ",
    el("b", { class: "num" }, agreement.toFixed(3).replace("-", "−")),
    ` over ${several(keys.length, "code or value", "codes and values")}.`)];
}

function correlation(x, y) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [mx, my] = [mean(x), mean(y)];
  const dot = (u, mu, v, mv) => u.reduce((sum, value, i) => sum + (value - mu) * (v[i] - mv), 0);
  const size = Math.sqrt(dot(x, mx, x, mx) * dot(y, my, y, my));
  return x.length > 2 && size > 0 ? dot(x, mx, y, my) / size : null;
}
