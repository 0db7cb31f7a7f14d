// One patient on each side, as Python has drawn it.

const drawn = [null, null];

async function drawPatients() {
  const sides = shownSides();
  const ask = JSON.stringify(sides);
  drawPatients.asked = ask;
  const wait = () => sides.forEach((_, i) => contentOf(i)?.classList.add("waiting"));
  const waiting = setTimeout(wait, 150);
  const answers = await Promise.allSettled(sides.map((side) => viewFor(side.row, settingOf(side))));
  clearTimeout(waiting);
  if (drawPatients.asked !== ask || state.tab !== "patient") return;
  answers.forEach(({ value, reason }, place) => {
    const content = contentOf(place);
    content.classList.remove("waiting");
    if (value) content.innerHTML = value.html;
    else replace(content, buildProblem(sides[place], reason));
  });
  answers.forEach(({ value }, place) => value && offerWhatIf(contentOf(place), sides[place], value));
  shareColors(sides);
  const bar = document.getElementById("agreement");
  bar.querySelector(".agreement")?.remove();
  const [a, b] = answers.map(({ value }) => value);
  if (a && b && sides[0].row === sides[1].row) bar.append(...buildAgreement(a.rows, b.rows));
  document.body.dataset.ready = ask;
}

function buildProblem(side, reason) {
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
      const key = `${feature}\n${code}`;
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
