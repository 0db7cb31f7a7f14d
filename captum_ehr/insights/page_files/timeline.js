// Visits and values on true time: a bar per visit, a line per lab, one axis.

const WIDE = { left: 190, right: 118, bar: 100, line: 48, foot: 34, name: 26 };
const NARROW = { ...WIDE, left: 150, right: 100, name: 18 };
let AXIS = WIDE;
const MOST_LINES = 8;

function placesOf(view) {
  const timed = [
    ...view.visits.map((one) => one.time),
    ...view.series.flatMap((one) => one.lines.flatMap((l) => l.points.map((p) => p.time))),
  ].filter((time) => time !== null);
  if (timed.length) return { isTime: true, values: timed };
  const steps = [
    ...view.visits.map((one) => one.visit),
    ...view.series.flatMap((one) => one.lines.flatMap((l) => l.points.map((p) => p.step))),
  ].filter((step) => step !== null);
  return { isTime: false, values: steps };
}

function scaleOf(values, width) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const inner = width - AXIS.left - AXIS.right;
  const place = (x) => AXIS.left + (high > low ? ((x - low) / (high - low)) * inner : inner / 2);
  return { low, high, place };
}

function ticksOf({ low, high }, isTime) {
  if (!isTime) {
    const every = Math.max(1, Math.ceil((high - low) / (AXIS === WIDE ? 12 : 6)));
    const count = Math.floor((high - low) / every) + 1;
    return Array.from({ length: count }, (_, i) => low + i * every);
  }
  const rough = (high - low) / (AXIS === WIDE ? 8 : 4) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const first = Math.ceil(low / step) * step;
  const made = [];
  for (let x = first; x <= high + step * 1e-6; x += step) made.push(x);
  return made;
}

function buildTimeline(view, limit, width, jump) {
  const { isTime, values } = placesOf(view);
  if (!values.length) return null;
  AXIS = width < 620 ? NARROW : WIDE;
  const scale = scaleOf(values, width);
  const bars = view.visits.filter((one) => (isTime ? one.time : one.visit) !== null);
  const lines = view.series.flatMap((one) =>
    one.lines.map((line) => ({ ...line, feature: one.feature }))
  );
  lines.sort((a, b) => strengthOf(b) - strengthOf(a));
  const shown = lines.slice(0, MOST_LINES);
  const top = bars.length ? AXIS.bar : 8;
  const height = top + shown.length * AXIS.line + AXIS.foot;
  const made = svg("svg", {
    class: "timeline",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": "visits and values over time",
  });
  drawAxis(made, view, scale, isTime, width, height);
  if (bars.length) drawBars(made, bars, scale, isTime, limit, jump);
  shown.forEach((line, i) => {
    drawLine(made, line, scale, isTime, limit, top + i * AXIS.line, width);
  });
  return [made, restOfLines(lines)];
}

function strengthOf(line) {
  return line.points.reduce((sum, point) => sum + Math.abs(point.attribution || 0), 0);
}

function restOfLines(lines) {
  const rest = lines.slice(MOST_LINES);
  if (!rest.length) return null;
  const total = addUp(rest.map((line) => line.total));
  const words = `+${several(rest.length, "weaker line", "weaker lines")}, together `;
  return el("p", { class: "muted small" }, words + signed(total));
}

function drawAxis(made, view, scale, isTime, width, height) {
  const y = height - AXIS.foot;
  made.append(
    svg("line", { x1: AXIS.left - 14, x2: width - AXIS.right + 14, y1: y, y2: y, class: "axis" })
  );
  for (const tick of ticksOf(scale, isTime)) {
    const x = scale.place(tick);
    made.append(
      svg("line", { x1: x, x2: x, y1: 4, y2: y, class: "grid" }),
      svg("text", { x, y: y + 14, class: "tick", "text-anchor": "middle" },
        isTime ? number(tick) : tick + 1)
    );
  }
  const label = isTime ? overview.time_label : "visit (in order; no times to go by)";
  const middle = (AXIS.left + width - AXIS.right) / 2;
  made.append(svg("text", { x: middle, y: y + 29, class: "tick", "text-anchor": "middle" }, label));
}

function drawBars(made, bars, scale, isTime, limit, jump) {
  const rise = Math.max(0, ...bars.map((one) => one.total));
  const fall = Math.max(0, ...bars.map((one) => -one.total));
  const unit = (AXIS.bar - 44) / (rise + fall || 1);
  const middle = 18 + rise * unit;
  made.append(
    svg("text", { x: 0, y: middle + 4, class: "rowname" }, "visits"),
    svg("line", { x1: AXIS.left - 14, x2: scale.place(scale.high) + 14, y1: middle, y2: middle, class: "zero" })
  );
  const places = bars.map((one) => scale.place(isTime ? one.time : one.visit)).sort((a, b) => a - b);
  const gaps = places.slice(1).map((x, i) => x - places[i]);
  const thick = Math.max(3, Math.min(12, ...gaps.map((gap) => gap - 2)));
  const taken = [];
  const ranked = [...bars].sort((a, b) => Math.abs(b.total) - Math.abs(a.total));
  for (const one of ranked) {
    const x = scale.place(isTime ? one.time : one.visit);
    const size = Math.max(1.5, Math.abs(one.total) * unit);
    const up = one.total >= 0;
    const bar = svg(
      "rect",
      {
        x: x - thick / 2, y: up ? middle - size : middle, width: thick, height: size, rx: Math.min(2, thick / 3),
        fill: deep(one.total), class: "bar",
        on: { click: () => jump(one) },
      },
      svg("title", null, `${visitWords(one)}: ${signed(one.total)}`)
    );
    made.append(bar);
    if (taken.every((other) => Math.abs(other - x) >= 44)) {
      taken.push(x);
      made.append(
        svg("text", { x, y: up ? middle - size - 4 : middle + size + 11, class: "value", "text-anchor": "middle" },
          signed(one.total))
      );
    }
  }
}

function drawLine(made, line, scale, isTime, limit, top, width) {
  const points = line.points.filter((p) => p.value !== null && (isTime ? p.time : p.step) !== null);
  const values = points.map((point) => point.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const y = (value) => top + 40 - (high > low ? ((value - low) / (high - low)) * 18 : 9);
  const x = (point) => scale.place(isTime ? point.time : point.step);
  const name = line.name || line.code;
  made.append(
    svg("text", { x: 0, y: top + 36, class: "rowname" },
      svg("title", null, `${line.feature}: ${line.code}`), shorten(name, AXIS.name)),
    svg("text", { x: width, y: top + 36, class: "value", "text-anchor": "end" },
      `sum ${signed(line.total)}`)
  );
  if (!points.length) return;
  const path = points.map((point) => `${x(point).toFixed(1)},${y(point.value).toFixed(1)}`);
  made.append(svg("polyline", { points: path.join(" "), class: "line" }));
  for (const point of points) {
    const words = `${name} ${number(point.value)}, attribution ${signed(point.attribution)}`;
    made.append(
      svg("circle",
        { cx: x(point), cy: y(point.value), r: 5, fill: colorOf(point.attribution, limit), class: "dot" },
        svg("title", null, words))
    );
  }
  labelPoints(made, points, x, y);
}

// Values at the strongest points, where there is room for them.
function labelPoints(made, points, x, y) {
  const taken = [];
  const ranked = [...points].sort(
    (a, b) => Math.abs(b.attribution || 0) - Math.abs(a.attribution || 0)
  );
  for (const point of ranked) {
    const place = x(point);
    const crowded = points.some((one) => one !== point && Math.abs(x(one) - place) < 24);
    if (!crowded && taken.every((other) => Math.abs(other - place) >= 48)) {
      taken.push(place);
      made.append(
        svg("text", { x: place, y: y(point.value) - 8, class: "value halo", "text-anchor": "middle" },
          number(point.value))
      );
    }
  }
}

// Every value with its attribution below, as a table that is built when it is opened.
function buildValues(view, limit) {
  return view.series.map((series) => {
    const timed = series.timed;
    const at = (point) => (timed ? point.time : point.step);
    const all = new Set(series.lines.flatMap((line) => line.points.map(at)));
    const steps = [...all].sort((a, b) => a - b);
    const words = `${series.feature}: all values at ${several(steps.length, "time", "times")}, attribution below each`;
    const fold = el("details", { class: "values" }, el("summary", null, words));
    fold.addEventListener("toggle", () => {
      if (fold.open && fold.children.length === 1) {
        fold.append(buildValueTable(series, steps, at, timed, limit));
      }
    });
    return fold;
  });
}

function buildValueTable(series, steps, at, timed, limit) {
  const heads = steps.map((step) => el("th", { scope: "col" }, timed ? number(step) : step + 1));
  const lines = series.lines.map((line) => {
    const own = new Map(line.points.map((point) => [at(point), point]));
    const cells = steps.map((step) => buildValue(own.get(step), limit));
    return el("tr", null, el("th", { scope: "row", title: line.code }, line.name || line.code), cells);
  });
  return el("div", { class: "wide" },
    el("table", null, el("thead", null, el("tr", null, el("th"), heads)), el("tbody", null, lines)));
}

function buildValue(point, limit) {
  if (!point) return el("td", { title: "not measured" }, "·");
  const color = colorOf(point.attribution, limit);
  return el("td", { style: { background: color, color: textOn(color) } },
    number(point.value), el("small", null, signed(point.attribution)));
}
