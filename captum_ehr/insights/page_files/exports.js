// What is seen, as CSV, PNG or one HTML file.

function download(name, blob) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A cell that a spreadsheet would take for a formula is made text.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r\n]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csv(head, table) {
  return [head, ...table].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

function patientTable(view) {
  const about = [view.patient.id, view.model, view.method, view.target, view.baseline];
  const made = [];
  const add = (feature, when, one) =>
    made.push([...about, feature, when, one.code, one.name, one.value ?? null, one.attribution]);
  for (const visit of view.visits) {
    for (const group of visit.groups) {
      for (const item of group.items) add(group.feature, visit.time ?? visit.visit, item);
    }
  }
  for (const series of view.series) {
    for (const line of series.lines) {
      for (const point of line.points) {
        add(series.feature, point.time ?? point.step + 1, { ...line, ...point });
      }
    }
  }
  for (const one of view.columns) {
    for (const item of one.items) add(one.feature, null, item);
  }
  return made;
}

const PATIENT_HEAD = [
  "patient", "model", "method", "target", "baseline",
  "feature", "time_or_visit", "code", "name", "value", "attribution",
];

async function exportCsv() {
  if (state.tab === "cohort") {
    const setting = settingOf(state.sides[0]);
    const { codes } = aggregate(rows, setting);
    codes.sort((a, b) => (b.mean_abs ?? -1) - (a.mean_abs ?? -1));
    const keys = ["feature", "code", "name", "patients", "prevalence", "mean", "mean_abs"];
    const text = csv(keys, codes.map((one) => keys.map((key) => one[key])));
    return download("cohort.csv", new Blob([text], { type: "text/csv" }));
  }
  const shown = await Promise.all(shownSides().map((side) => viewFor(side.row, settingOf(side))));
  const text = csv(PATIENT_HEAD, shown.flatMap(patientTable));
  return download("patient.csv", new Blob([text], { type: "text/csv" }));
}

// The browser draws the panels once more, into a picture.
async function exportPng() {
  const source = document.getElementById("panels");
  const { scrollWidth: width, scrollHeight: height } = source;
  const copy = source.cloneNode(true);
  const chosen = [...source.querySelectorAll("select")];
  copy.querySelectorAll("select").forEach((one, i) => {
    one.replaceWith(el("b", { class: "chosen" }, chosen[i].selectedOptions[0]?.textContent || ""));
  });
  const style = document.createElement("style");
  style.textContent = document.getElementById("style").textContent;
  const box = el("div", { class: "picture" }, style, copy);
  box.setAttribute("xmlns", "http://www.w3.org/1999/xhtml");
  const text = new XMLSerializer().serializeToString(box);
  const page =
    `<svg xmlns="${SVG}" width="${width}" height="${height}">` +
    `<foreignObject width="100%" height="100%">${text}</foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(page)}`;
  await image.decode();
  const sharp = Math.min(2, Math.sqrt(1.2e8 / (width * height)));
  const canvas = el("canvas", { width: Math.round(width * sharp), height: Math.round(height * sharp) });
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  context.drawImage(image, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  download(`${state.tab}.png`, blob);
}

async function exportHtml() {
  const sides = shownSides();
  const settings = sides.map(settingOf);
  const wanted = state.tab === "cohort" ? rows : [...new Set(sides.map((side) => side.row))];
  const text = await transport.page(wanted, settings);
  download("insights.html", new Blob([text], { type: "text/html" }));
}

function exporting(run) {
  return async () => {
    try {
      await run();
    } catch (error) {
      showBanner(`Not exported: ${error.message}`, "error");
    }
  };
}
