// One patient: from f(x0) to f(x), whether it adds up, visits, codes and values.

const OPEN_VISITS = 8;
const OPEN_CODES = 12;

function visitWords(visit) {
  if (visit.time !== null) return `${overview.time_label} ${number(visit.time)}`;
  return visit.visit !== null ? `visit ${visit.visit}` : "all codes";
}

function buildPatient(view, limit, width) {
  const jump = (visit) => {
    const row = body.querySelector(`[data-visit="${view.visits.indexOf(visit)}"]`);
    if (!row) return;
    const fold = row.closest("details");
    if (fold) fold.open = true;
    row.scrollIntoView({ block: "center", behavior: "smooth" });
    row.classList.add("flash");
    setTimeout(() => row.classList.remove("flash"), 1200);
  };
  const body = el(
    "div",
    { class: "patient" },
    buildTitle(view),
    el("div", { class: "account" }, buildBridge(view), buildComplete(view, limit)),
    section("Over time", buildTimeline(view, limit, width, jump)),
    buildValues(view, limit),
    section(visitsTitle(view), buildVisits(view, limit)),
    view.columns.map((one) =>
      section(one.feature, el("div", { class: "chips" }, buildChips(one.items, limit)))
    )
  );
  if (!view.features.length) body.append(el("p", { class: "muted" }, "No codes or values."));
  return body;
}

function visitsTitle(view) {
  const isTimed = view.visits.some((one) => one.time !== null);
  if (isTimed) return `Visits by ${overview.time_label}`;
  return view.visits.some((one) => one.visit !== null) ? "Visits" : "Codes";
}

function section(title, content) {
  if (!content) return null;
  return el("section", null, el("h3", null, title), content);
}

function buildTitle(view) {
  const { patient, prediction: said } = view;
  const score = scoreWords(said);
  const marks = { true: "right", false: "wrong" };
  const judged = marks[String(said.correct)];
  const isTold = overview.classes.length > 2 || !said.is_probability;
  const what = isTold && said.score !== null ? said.text : "";
  return el(
    "div",
    { class: "title" },
    el("h2", null, patient.id),
    patient.label ? fact("observed", patient.label) : null,
    fact("predicted", [what, score].filter(Boolean).join(" · ")),
    judged ? el("span", { class: `mark ${judged}` }, judged === "right" ? "✓ right" : "✗ wrong") : null,
    overview.groups.map((name, i) => fact(name, patient.groups[i]))
  );
}

function fact(name, value) {
  return el("span", { class: "fact" }, el("span", { class: "muted" }, name), " ", el("b", null, value));
}

// A waterfall: the baseline, what each feature adds, the patient.
function buildBridge(view) {
  const [before, after] = view.probability || [null, null];
  const steps = [{ name: `baseline (${view.baseline})`, from: 0, to: view.f_baseline, end: before }];
  let at = view.f_baseline;
  for (const one of view.features) {
    const to = addUp([at, one.total]);
    steps.push({ name: one.feature, from: at, to, total: one.total });
    at = to;
  }
  steps.push({ name: "this patient", from: 0, to: view.f_input, end: after });
  const ends = steps.flatMap((one) => [one.from, one.to]);
  const low = Math.min(0, ...ends);
  const span = Math.max(0, ...ends) - low || 1;
  const share = (x) => `${(((x - low) / span) * 100).toFixed(2)}%`;
  return el(
    "table",
    { class: "bridge" },
    el("caption", null, `${view.output} of `, el("b", null, view.target), ` · ${view.model}`),
    el("tbody", null, steps.map((one) => buildStep(one, share, low, span, view)))
  );
}

function buildStep(one, share, low, span, view) {
  const isEnd = one.total === undefined;
  const isKnown = one.from !== null && one.to !== null;
  const left = Math.min(one.from, one.to);
  const width = (Math.abs(one.to - one.from) / span) * 100;
  const color = isEnd ? "#8b949c" : deep(one.total);
  const bar = isKnown && el("i", {
    style: { left: share(left), width: `${Math.max(width, 0.4)}%`, background: color },
  });
  const zero = el("u", { style: { left: share(0) } });
  const probability =
    one.end !== null && one.end !== undefined && view.output !== "probability"
      ? percent(one.end)
      : "";
  return el(
    "tr",
    { class: isEnd ? "end" : "step" },
    el("th", { scope: "row", title: one.name }, one.name),
    el("td", { class: "track" }, el("div", null, zero, bar)),
    el("td", { class: "num" }, isEnd ? fixed(one.to, 3) : signed(one.total)),
    el("td", { class: "num" }, probability)
  );
}

const BADGES = { exact: "✓", noted: "!", approximate: "≈", off: "✗", unanswered: "?", none: "○" };

function buildComplete(view, limit) {
  const { status, text, messages } = view.complete;
  const { f_input, f_baseline } = view;
  const change = f_input === null || f_baseline === null ? null : f_input - f_baseline;
  const facts = [
    ["sum of attributions", signed(view.total)],
    ["f(x) − f(x0)", signed(change)],
    ["|delta|", deltaWords(view)],
  ];
  return el(
    "div",
    { class: "complete" },
    el("div", { class: `badge ${status}`, "data-status": status }, BADGES[status], " ", text),
    el("dl", null, facts.map(([name, value]) => [el("dt", null, name), el("dd", { class: "num" }, value)])),
    messages.length
      ? el("details", { class: "messages" },
          el("summary", null, several(messages.length, "remark", "remarks")),
          el("ul", null, messages.map((one) => el("li", null, one))))
      : null,
    buildLegend(limit, view.output)
  );
}

function deltaWords(view) {
  const part = view.relative_delta;
  return part === null ? tiny(view.delta) : `${tiny(view.delta)} (${tiny(part)} of the change)`;
}

function buildLegend(limit, unit) {
  const ramp = `linear-gradient(90deg, ${overview.stops.join(", ")})`;
  return el(
    "div",
    { class: "legend" },
    el("span", null, "lowers"),
    el("span", { class: "num" }, MINUS + short(limit)),
    el("span", { class: "ramp", style: { background: ramp } }),
    el("span", { class: "num" }, `+${short(limit)}`),
    el("span", null, "raises"),
    el("span", { class: "muted" }, `(${unit})`)
  );
}

// Visits: the strongest are open, runs of the others are folded -------------------

function foldVisits(visits) {
  if (visits.length <= OPEN_VISITS + 2) return visits.length ? [{ open: true, from: 0, to: visits.length }] : [];
  const ranked = visits.map((_, i) => i).sort((a, b) => visits[b].strength - visits[a].strength);
  const open = visits.map(() => false);
  for (const i of ranked.slice(0, OPEN_VISITS)) open[i] = true;
  // One weak visit alone is not worth folding.
  const isOpen = (i) => i < 0 || i >= visits.length || open[i];
  for (let i = 0; i < visits.length; i += 1) open[i] = open[i] || (isOpen(i - 1) && isOpen(i + 1));
  const blocks = [];
  for (let i = 0; i < visits.length; i += 1) {
    const last = blocks[blocks.length - 1];
    if (last && last.open === open[i]) last.to = i + 1;
    else blocks.push({ open: open[i], from: i, to: i + 1 });
  }
  return blocks;
}

function buildVisits(view, limit) {
  const { visits } = view;
  if (!visits.length) return null;
  const build = (block) => {
    const own = [];
    for (let i = block.from; i < block.to; i += 1) own.push(buildVisit(visits[i], i, limit));
    if (block.open) return own;
    const some = visits.slice(block.from, block.to);
    const total = addUp(some.map((one) => one.total));
    const words = `${several(some.length, "visit", "visits")} with less weight, together ${signed(total)}`;
    return el("details", { class: "fold" }, el("summary", null, words), own);
  };
  return el("div", { class: "visits" }, foldVisits(visits).map(build));
}

function buildVisit(visit, place, limit) {
  const when =
    visit.time !== null
      ? el("b", { class: "num" }, number(visit.time))
      : el("b", null, visitWords(visit));
  return el(
    "div",
    { class: "visit", "data-visit": place },
    el("div", { class: "when" }, when),
    el("div", { class: "sum num" }, signed(visit.total)),
    el("div", { class: "groups" },
      visit.groups.map((group) =>
        el("div", { class: "group" },
          el("span", { class: "feature" }, group.feature),
          el("div", { class: "chips" }, buildChips(group.items, limit)))))
  );
}

function buildChips(items, limit) {
  const shown = items.slice(0, OPEN_CODES).map((item) => buildChip(item, limit));
  const rest = items.slice(OPEN_CODES);
  if (!rest.length) return shown;
  const total = addUp(rest.map((one) => one.attribution));
  const more = el("details", { class: "more" },
    el("summary", null, `+${rest.length} more, together ${signed(total)}`));
  // Built when asked for: a stay may have a thousand prescriptions.
  more.addEventListener("toggle", () => {
    if (more.open && more.children.length === 1) {
      more.append(...rest.map((item) => buildChip(item, limit)));
    }
  });
  return [...shown, more];
}

function buildChip(item, limit) {
  const color = colorOf(item.attribution, limit);
  const words = `${item.code}${item.name ? ` · ${item.name}` : ""}, attribution ${item.attribution ?? NO_ANSWER}`;
  return el(
    "span",
    { class: "chip", title: words, "data-code": item.code, style: { background: color, color: textOn(color) } },
    codeLabel(item),
    item.value !== null ? ` = ${number(item.value)}` : null,
    el("span", { class: "num" }, signed(item.attribution))
  );
}
