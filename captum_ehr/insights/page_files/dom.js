// The data that the page was made with, and elements. Strings of the data only ever
// become text nodes; what Python has drawn comes escaped.

const data = JSON.parse(document.getElementById("data").textContent);
const overview = data.overview;

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") {
      for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    } else if (key === "style") {
      Object.assign(node.style, value);
    } else {
      node.setAttribute(key, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return node;
}

function replace(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

function several(count, noun, nouns) {
  return `${count} ${count === 1 ? noun : nouns}`;
}

function shorten(text, width) {
  return text.length <= width ? text : text.slice(0, Math.max(width - 1, 0)) + "…";
}

// As ColorScale.pair: the background and the text on it.
function colorsOf(attribution, limit) {
  const share = limit > 0 ? Math.max(-1, Math.min(1, attribution / limit)) : 0;
  const { colors } = data;
  return colors[Math.min(Math.floor(((share + 1) / 2) * colors.length), colors.length - 1)];
}
