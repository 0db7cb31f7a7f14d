// Elements, numbers and colours. Strings of the data only ever become text nodes.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") {
      for (const [event, handler] of Object.entries(value)) {
        node.addEventListener(event, handler);
      }
    } else if (key === "style") {
      Object.assign(node.style, value);
    } else {
      node.setAttribute(key, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function replace(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// Numbers ------------------------------------------------------------------------

const MINUS = "−";

// JSON has null for what is no number, as where the model has no answer: a sum with it
// is none either, and never what JavaScript makes of null, 0.
const NO_ANSWER = "no answer";

function addUp(values) {
  return values.some((one) => one === null) ? null : values.reduce((sum, one) => sum + one, 0);
}

function signed(value) {
  if (value === null || value === undefined) return NO_ANSWER;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const sign = value > 0 ? "+" : MINUS;
  if (size < 0.0005) return sign + exponent(size);
  return sign + size.toFixed(size >= 10 ? 1 : size >= 0.1 ? 2 : 3);
}

function fixed(value, digits) {
  if (value === null || value === undefined) return NO_ANSWER;
  return value.toFixed(digits).replace("-", MINUS);
}

function exponent(size) {
  return size.toExponential(0).replace("e-", "e" + MINUS).replace("e+", "e");
}

function tiny(value) {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : exponent(Math.abs(value));
}

function number(value) {
  if (value === null || value === undefined) return "not a number";
  return String(Number(value.toPrecision(4))).replace("-", MINUS);
}

function short(value) {
  return String(Number(value.toPrecision(2)));
}

function percent(share) {
  if (share === null || share === undefined) return NO_ANSWER;
  const hundred = share * 100;
  const digits = hundred > 0 && (hundred < 9.95 || hundred > 99) && hundred < 100 ? 1 : 0;
  return hundred.toFixed(digits) + " %";
}

function several(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}

// Colours: one scale, symmetric about zero, which is white ------------------------

const UNKNOWN = "#d9d9d9";

function channels(color) {
  return [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
}

function colorOf(value, limit) {
  const stops = overview.stops;
  if (value === null || value === undefined) return UNKNOWN;
  if (!(limit > 0)) return stops[(stops.length - 1) / 2];
  const share = Math.max(-1, Math.min(1, value / limit));
  const place = ((share + 1) / 2) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const [from, to] = [channels(stops[low]), channels(stops[low + 1])];
  const mix = from.map((one, i) => Math.round(one + (to[i] - one) * (place - low)));
  return "#" + mix.map((one) => one.toString(16).padStart(2, "0")).join("");
}

function textOn(color) {
  const [r, g, b] = channels(color).map((one) => {
    const part = one / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) ? "#000000" : "#ffffff";
}

function deep(value) {
  if (value === null) return UNKNOWN;
  const stops = overview.stops;
  return value < 0 ? stops[1] : stops[stops.length - 2];
}

// Words of the data ---------------------------------------------------------------

function codeLabel(item) {
  return item.name && !item.name.startsWith(item.code)
    ? [el("b", null, item.code), " ", el("span", { class: "name" }, item.name)]
    : [el("b", null, item.name || item.code)];
}

function shorten(text, width) {
  return text.length <= width ? text : text.slice(0, Math.max(width - 1, 0)) + "…";
}
