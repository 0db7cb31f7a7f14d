// What is said: to all in the banner, to a screen reader, on paper, and of the time
// that an explanation takes.

// An error stays until it is closed or something else is done, a note of the file as
// long as the page.
function showBanner(text, kind, ...more) {
  const banner = document.getElementById("banner");
  banner.className = kind || "";
  if (text) banner.setAttribute("role", kind === "error" ? "alert" : "status");
  const close = el("button", { "aria-label": "Close", on: { click: () => showBanner("") } }, "×");
  replace(banner, text ? [el("span", { class: "words" }, text), ...more, close] : []);
  banner.hidden = !text;
}

function bannerText() {
  return document.querySelector("#banner .words")?.textContent ?? "";
}

function clearError() {
  if (document.getElementById("banner").className === "error" && bannerText() !== LOST) showBanner(data.note ?? "", "note");
}

function say(words) {
  document.getElementById("said").textContent = words;
}

// A bar of how far it is, and a way out; returns what moves the bar.
function showProgress(place, words, cancel) {
  const bar = el("progress", { "aria-label": words });
  const share = el("span", { class: "num muted" });
  replace(progressOf(place),
    el("span", null, `${words} …`), bar, share, el("button", { on: { click: cancel } }, "Cancel"));
  say(`${words} …`);
  return ({ done, of }) => {
    if (of) Object.assign(bar, { max: of, value: Math.min(done, of) });
    share.textContent = of ? `${Math.floor((100 * Math.min(done, of)) / of)} %` : several(done, "run of the model", "runs of the model");
  };
}

function hideProgress(place) {
  if (progressOf(place)) replace(progressOf(place));
}

function progressOf(place) {
  return document.querySelector(`.panel[data-side="${place}"] .progress`);
}

// On paper: who and what, when, and nothing closed.
function setUpPrint() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("#panels details:not([open])")];
    for (const fold of closed) fold.open = true;
    const lines = shownSides().map((side) => {
      const who = state.tab === "patient" ? `Patient ${overview.patients[side.row].id}` : several(rows.length, "patient", "patients");
      return `${who} · model ${overview.models[side.model]} · ${side.method} · target ${targetOf(side)} · baseline ${side.baseline}`;
    });
    replace(document.getElementById("printed"),
      el("b", null, overview.title), lines.map((line) => el("p", null, line)),
      el("p", { class: "muted" }, `Printed on ${new Date().toLocaleDateString(undefined, { dateStyle: "long" })}`));
  });
  addEventListener("afterprint", () => {
    for (const fold of closed) fold.open = false;
  });
}
