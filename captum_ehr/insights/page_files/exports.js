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

const HOW = ["model", "method", "target", "baseline"];
const PATIENT_HEAD = [
  "patient", ...HOW,
  "feature", "visit", "time", "code", "name", "value", "unit", "measured", "attribution",
];
const CODE_HEAD = ["feature", "code", "name", "unit", "patients", "prevalence", "mean", "mean_abs"];
const COHORT_HEAD = [...HOW, "explained", "listed", ...CODE_HEAD];

async function exportCsv() {
  const isCohort = state.tab === "cohort";
  const tables = await Promise.all(shownSides().map(isCohort ? cohortLines : patientLines));
  const text = csv(isCohort ? COHORT_HEAD : PATIENT_HEAD, tables.flat());
  download(`${state.tab}.csv`, new Blob([text], { type: "text/csv" }));
}

function howOf(side, target) {
  return [overview.models[side.model], side.method, target, side.baseline];
}

async function cohortLines(side) {
  const known = rows.filter((row) => partOf(row, side));
  const about = [...howOf(side, targetOf(side)), known.length, rows.length];
  const sums = await transport.sums(known, settingOf(side));
  return sums.map((code) => [...about, ...CODE_HEAD.map((key) => code[key])]);
}

async function patientLines(side) {
  const view = await viewFor(side.row, settingOf(side));
  const about = [overview.patients[side.row].id, ...howOf(side, view.target)];
  return view.rows.map((line) => [...about, ...line]);
}

// The browser draws the panels once more, into a picture.
async function exportPng() {
  await whenDrawn();
  const source = document.getElementById("panels");
  const { scrollWidth: width, scrollHeight: height } = source;
  const copy = source.cloneNode(true);
  const style = document.createElement("style");
  // Pictures go onto paper and white slides.
  style.textContent = document.getElementById("style").textContent.replaceAll("screen and (prefers-color-scheme: dark)", "not all");
  const box = el("div", { class: "picture ehr-page" }, style, copy);
  box.setAttribute("xmlns", "http://www.w3.org/1999/xhtml");
  const text = new XMLSerializer().serializeToString(box);
  const page =
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">` +
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

async function exportHtml(isAll) {
  const sides = shownSides();
  const settings = sides.map(settingOf);
  const wanted = state.tab === "cohort" ? rows : [...new Set(sides.map((side) => side.row))];
  if (wanted.length > data.limit && isAll !== true) return askForAll(wanted.length);
  const text = await transport.page(wanted, settings, isAll === true);
  download("insights.html", new Blob([text], { type: "text/html" }));
}

// So many records are written only to who says so.
function askForAll(count) {
  const all = el("button", { on: { click: exporting(() => exportHtml(true)) } }, `Save all ${count}`);
  showBanner(`The list has ${count} patients, and a file is meant for ${data.limit} at most, whose records it holds. ` +
    `Filter the list first, or save the records of all ${count}.`, "error", all);
}

function exporting(run) {
  return async () => {
    clearError();
    try {
      await run();
    } catch (error) {
      showBanner(`Not exported: ${error.message}`, "error");
    }
  };
}
