// Where views come from: the server over Bokeh's WebSocket, or this file itself.

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
    parts: async () => undefined,
    holds: (setting) => settingKey(setting) in data.views,
  };
}

// One model of the Bokeh document carries questions and answers as JSON.
class Live {
  constructor(session) {
    this.isLive = true;
    this.session = session;
    this.waiting = new Map();
    this.count = 0;
    this.lost = null;
  }

  async connect() {
    const { protocol, host, pathname, search } = window.location;
    const path = pathname.replace(/\/+$/, "");
    const url = `${protocol === "https:" ? "wss:" : "ws:"}//${host}${path}/ws`;
    const place = document.getElementById("bokeh");
    await Bokeh.embed.add_document_from_session(url, this.session, place, [], false);
    const own = Bokeh.documents[Bokeh.documents.length - 1];
    this.channel = own.get_model_by_name("insights");
    this.channel.properties.answer.change.connect(() => this.receive());
    own.on_event("connection_lost", () => this.lose());
  }

  receive() {
    const answer = JSON.parse(this.channel.answer);
    const waiting = this.waiting.get(answer.id);
    if (!waiting) return;
    this.waiting.delete(answer.id);
    if (answer.error) waiting.reject(new Error(answer.error));
    else waiting.resolve(answer.result);
  }

  lose() {
    this.lost = new Error(
      "The connection to the server is lost: it was stopped, or its kernel ended. " +
        "Start it again and open the address that it prints."
    );
    for (const waiting of this.waiting.values()) waiting.reject(this.lost);
    this.waiting.clear();
    showBanner(this.lost.message, "error");
  }

  ask(question) {
    if (this.lost) return Promise.reject(this.lost);
    const id = (this.count += 1);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.channel.question = JSON.stringify({ id, ...question });
    });
  }

  view(row, setting) {
    return this.ask({ kind: "view", row, ...setting });
  }

  async parts(rows, setting) {
    const found = await this.ask({ kind: "parts", rows, ...setting });
    const own = partsOf(setting);
    for (const [row, part] of Object.entries(found)) own.set(Number(row), part);
  }

  holds() {
    return true;
  }

  page(rows, settings) {
    return this.ask({ kind: "page", rows, settings });
  }
}

async function viewFor(row, setting) {
  const key = viewKey(row, setting);
  if (!views.has(key)) keep(key, await transport.view(row, setting));
  else keep(key, views.get(key));
  return views.get(key);
}

// Fill in what the cohort needs, some patients at a time, until nobody asks any more.
let filling = null;
async function fillParts(setting, wanted) {
  if (!transport.isLive || filling === settingKey(setting)) return;
  const key = settingKey(setting);
  filling = key;
  const step = overview.methods.find((one) => one.name === setting.method).quick ? 32 : 2;
  try {
    while (filling === key) {
      const missing = wanted().filter((row) => !partOf(row, setting)).slice(0, step);
      if (!missing.length) break;
      await transport.parts(missing, setting);
      progressed();
    }
  } catch (error) {
    cohortError = error.message;
    progressed();
  } finally {
    if (filling === key) filling = null;
  }
}
let cohortError = "";
