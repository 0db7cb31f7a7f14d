// The address: the token leaves it, and what is shown stands in its fragment.

const params = new URLSearchParams(location.search);
// A page inside a notebook has no address of its own.
const hasAddress = location.protocol !== "about:";
const token = hasAddress ? keptToken() : null;

// Kept for a reload by this tab alone: cookies go to all ports of a machine.
function keptToken() {
  const given = params.get("token");
  try {
    if (given) sessionStorage.setItem("token", given);
    const kept = sessionStorage.getItem("token");
    params.delete("token");
    return kept;
  } catch {
    return given; // It stays in the address where nothing may be kept.
  }
}

// A patient is the number of a row. What is searched for may be a name: it stays out,
// as does what is typed in other fields unless it is a code that the page lists.
function fragment() {
  const words = new URLSearchParams(steps());
  for (const [name, value] of filterWords()) words.set(name, value);
  return words.toString();
}

// What Back goes back over; filters are changed too often for that.
function steps() {
  const words = new URLSearchParams();
  if (state.tab !== "patient") words.set("tab", state.tab);
  shownSides().forEach((side, place) => {
    const end = place ? "2" : "";
    words.set(`patient${end}`, side.row + 1);
    if (overview.models.length > 1) words.set(`model${end}`, side.model + 1);
    words.set(`method${end}`, side.method);
    if (overview.targets[side.model].length > 1) words.set(`target${end}`, side.target ?? "predicted");
    words.set(`baseline${end}`, side.baseline);
  });
  if (state.compare && !state.linked) words.set("apart", "1");
  return words.toString();
}

function* filterWords() {
  if (sortWords() !== firstSort) yield ["sort", sortWords()];
  if (threshold() !== null) yield ["threshold", String(100 * threshold())];
  for (const field of form.elements) {
    if (!field.name || field.name === "search") continue;
    if (field.matches("select")) {
      if (field.selectedIndex > 0) yield [field.name, String(field.selectedIndex)];
    } else if (field.name === "code") {
      if (overview.codes.some(({ code }) => code === field.value.trim())) yield ["code", field.value.trim()];
    } else if (field.value !== field.defaultValue) {
      yield [field.name, field.value];
    }
  }
}

function sortWords() {
  return `${state.sort.down ? "-" : ""}${state.sort.key}`;
}

const firstSort = sortWords();

function readAddress() {
  const words = new URLSearchParams(hasAddress ? location.hash.slice(1) : "");
  state.tab = words.get("tab") === "cohort" ? "cohort" : "patient";
  state.compare = words.has("patient2");
  state.linked = !words.has("apart");
  state.active = 0;
  state.sides = [firstSetting(), firstSetting()];
  const sort = words.get("sort") ?? firstSort;
  state.sort = { key: sort.replace("-", ""), down: sort.startsWith("-") };
  if (!(state.sort.key in SORTS)) state.sort = { key: "row", down: false };
  setThreshold(words.get("threshold") ?? "");
  for (const field of form.elements) {
    if (!field.name || field.name === "search") continue;
    const value = words.get(field.name);
    if (field.matches("select")) field.selectedIndex = Number(value) in field.options ? Number(value) : 0;
    else field.value = value ?? field.defaultValue;
  }
  // The first in the list, who is at the highest risk, where nobody is named.
  const [first = 0] = visibleRows();
  state.sides = ["", "2"].map((end) => sideIn(words, end, first));
}

// What the words say, as far as this page has it.
function sideIn(words, end, row) {
  const first = firstSetting();
  const place = (name, count, otherwise = 0) => {
    const number = Number(words.get(name + end)) - 1;
    return Number.isInteger(number) && number >= 0 && number < count ? number : otherwise;
  };
  const model = place("model", overview.models.length);
  const method = words.get(`method${end}`);
  const target = words.get(`target${end}`);
  const isTarget = /^\d+$/.test(target ?? "");
  const side = withChange(first, {
    row: place("patient", overview.patients.length, row),
    model,
    method: overview.methods.some(({ name }) => name === method) ? method : first.method,
    target: isTarget ? Number(target) : first.target,
    baseline: words.get(`baseline${end}`) ?? first.baseline,
  });
  return transport.holds(side) ? side : { ...first, row: side.row };
}

function writeAddress(isFirst) {
  if (!hasAddress) return;
  const search = params.size ? `?${params}` : "";
  const isStep = !isFirst && steps() !== writeAddress.steps;
  writeAddress.steps = steps();
  const address = `${location.pathname}${search}#${fragment()}`;
  if (isStep) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

function setUpAddress() {
  readAddress();
  writeAddress(true);
  addEventListener("popstate", () => {
    readAddress();
    writeAddress.steps = steps();
    draw();
  });
}
