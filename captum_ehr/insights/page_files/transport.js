// Where views come from: the server, or this file itself.

const views = new Map();
const parts = new Map();
const LOST =
  "The connection to the server is lost: it was stopped, or its kernel ended. " +
  "Start it again and open the address that it prints.";
const CHECK_EVERY = 3000;

// What is known of a patient besides the view: in a file all that the cohort needs.
function partsOf(setting) {
  const key = settingKey(setting);
  if (!parts.has(key)) parts.set(key, new Map());
  return parts.get(key);
}

function partOf(row, setting) {
  return partsOf(setting).get(row);
}

async function viewFor(row, setting, watch = {}) {
  const key = `${row}|${settingKey(setting)}`;
  const view = views.get(key) || (await transport.view(row, setting, watch));
  views.delete(key);
  views.set(key, view);
  if (views.size > 200) views.delete(views.keys().next().value);
  return view;
}

// What the file has: nothing is computed.
function offline() {
  for (const [key, patients] of Object.entries(data.parts)) {
    parts.set(key, new Map(patients.map((part, row) => [row, part])));
  }
  return {
    isLive: false,
    view: async (row, setting) => data.views[settingKey(setting)][row],
    holds: (setting) => settingKey(setting) in data.views,
    sums: async (wanted, setting) => sumsOf(wanted, setting),
  };
}

function live() {
  const check = () =>
    request("alive")
      .then(() => bannerText() === LOST && showBanner(""), () => {})
      .finally(() => setTimeout(check, CHECK_EVERY));
  check();
  return {
    isLive: true,
    view: viewInPieces,
    holds: () => true,
    whatIf: (row, setting, change) => ask({ kind: "what_if", row, ...change, ...setting }),
    sums: (wanted, setting) => ask({ kind: "cohort", rows: wanted, ...setting }),
    page: (wanted, settings, all) => ask({ kind: "page", rows: wanted, settings, all }),
  };
}

async function request(path, options) {
  let response = null;
  try {
    response = await fetch(path, { ...options, headers: { "X-Insights-Token": token } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response?.ok) return response;
  if (response?.status === 413) throw new Error("That is too much to ask at once.");
  if (bannerText() !== LOST) showBanner(LOST, "error");
  throw new Error(LOST);
}

function post(path, question, signal) {
  return request(path, { method: "POST", body: JSON.stringify(question), signal });
}

async function ask(question) {
  const said = await (await post("ask", question)).json();
  if (said.error) throw new Error(said.error);
  return said.result;
}

// One patient; meanwhile `tell` hears how far it is.
async function viewInPieces(row, setting, { signal, tell }) {
  for await (const piece of askInLines({ kind: "view", row, ...setting }, signal)) {
    if (piece.error) throw new Error(piece.error);
    if (piece.result) return piece.result;
    tell?.(piece);
  }
  throw new Error(LOST);
}

// A long answer, line by line; the server computes no further once it is aborted.
async function* askInLines(question, signal) {
  const response = await post("stream", question, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    const lines = (text + next.value).split("\n");
    text = lines.pop();
    yield* lines.map((line) => JSON.parse(line));
  }
}
