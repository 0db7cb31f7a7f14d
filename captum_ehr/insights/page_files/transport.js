// Where views come from: the server, or this file itself.

const views = new Map();
const parts = new Map();

function viewKey(row, setting) {
  return `${row}|${settingKey(setting)}`;
}

function partsOf(setting) {
  const key = settingKey(setting);
  if (!parts.has(key)) parts.set(key, new Map());
  return parts.get(key);
}

function partOf(row, setting) {
  return partsOf(setting).get(row);
}

function keep(key, view) {
  views.delete(key);
  views.set(key, view);
  if (views.size > 400) views.delete(views.keys().next().value);
}

// What the file has: nothing is computed.
function offline(data) {
  for (const [key, rows] of Object.entries(data.parts)) {
    parts.set(key, new Map(rows.map((part, row) => [row, part])));
  }
  return {
    isLive: false,
    view: async (row, setting) => {
      const found = data.views[settingKey(setting)];
      if (!found) throw new Error("This file does not hold that combination.");
      return found[row];
    },
    holds: (setting) => settingKey(setting) in data.views,
  };
}

const LOST =
  "The connection to the server is lost: it was stopped, or its kernel ended. " +
  "Start it again and open the address that it prints.";
const CHECK_EVERY = 3000;

async function request(path, options) {
  let response = null;
  try {
    response = await fetch(path + window.location.search, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response && response.ok) return response;
  if (response && response.status === 413) throw new Error("That is too much to ask at once.");
  showBanner(LOST, "error");
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

// A long answer, line by line.
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

function live() {
  const check = () => request("alive").then(() => setTimeout(check, CHECK_EVERY), () => {});
  check();
  return {
    isLive: true,
    view: (row, setting) => ask({ kind: "view", row, ...setting }),
    page: (rows, settings) => ask({ kind: "page", rows, settings }),
    holds: () => true,
  };
}

async function viewFor(row, setting) {
  const key = viewKey(row, setting);
  if (!views.has(key)) keep(key, await transport.view(row, setting));
  else keep(key, views.get(key));
  return views.get(key);
}

// Fill in what the cohort needs, until nobody asks any more: the server computes no
// further when the stream is closed.
let filling = null;
let cohortError = "";

function stopFilling() {
  filling?.closing.abort();
  filling = null;
}

async function fillParts(setting, wanted) {
  const key = settingKey(setting);
  const missing = wanted.filter((row) => !partOf(row, setting));
  if (!transport.isLive || !missing.length) return;
  if (filling?.key === key && missing.every((row) => filling.rows.has(row))) return;
  stopFilling();
  const own = { key, rows: new Set(missing), closing: new AbortController() };
  filling = own;
  try {
    for await (const piece of askInLines({ rows: missing, ...setting }, own.closing.signal)) {
      if (piece.error) throw new Error(piece.error);
      for (const [row, part] of Object.entries(piece.parts)) partsOf(setting).set(Number(row), part);
      progressed();
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    cohortError = error.message;
    progressed();
  }
  if (filling === own) filling = null;
}
