// What of a page has too little contrast, as WCAG 2 has it: text below 4.5, edges of
// fields and bars below 3.
() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    return { rgb: [r, g, b], a };
  };
  const over = (top, under) => top.rgb.map((one, i) => one * top.a + under[i] * (1 - top.a));
  const ground = (node) => {
    if (!node) return [255, 255, 255];
    const own = parse(getComputedStyle(node).backgroundColor);
    return own.a === 1 ? own.rgb : over(own, ground(node.parentElement));
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => {
      const share = one / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const found = [];
  let seen = 0;
  const check = (node, color, under, least, what) => {
    let alpha = color.a;
    for (let one = node; one; one = one.parentElement) alpha *= Number(getComputedStyle(one).opacity);
    const is = contrast(over({ rgb: color.rgb, a: alpha }, under), under);
    seen += 1;
    if (is < least) found.push(`${what} ${is.toFixed(2)}: ${color.rgb} on ${under.map(Math.round)}`);
  };
  const isSeen = (node) => {
    const { width, height } = node.getBoundingClientRect();
    return width > 1 && height > 1 && getComputedStyle(node).visibility === "visible" && !node.closest(".spoken, .spoken-only");
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || node.closest("script, style, title, option, noscript") || !isSeen(node)) continue;
    const style = getComputedStyle(node);
    const color = parse(node.closest("svg") ? style.fill : style.color);
    check(node, color, ground(node.closest("svg") || node), 4.5, `text "${walk.currentNode.textContent.trim().slice(0, 20)}"`);
  }
  for (const node of document.querySelectorAll("input[type=search], select, button:not(.link)")) {
    const style = getComputedStyle(node);
    if (!isSeen(node) || parseFloat(style.borderTopWidth) === 0) continue;
    check(node, parse(style.borderTopColor), ground(node.parentElement), 3, `edge of ${node.id || node.className || node.tagName}`);
  }
  for (const node of document.querySelectorAll(".track i")) {
    if (isSeen(node)) check(node, parse(getComputedStyle(node).backgroundColor), ground(node.parentElement), 3, "bar");
  }
  for (const node of document.querySelectorAll(".timeline .bar")) {
    if (isSeen(node)) check(node, parse(getComputedStyle(node).fill), ground(node.closest("svg")), 3, "bar of a visit");
  }
  for (const node of document.querySelectorAll(".timeline .dot, .timeline .line")) {
    check(node, parse(getComputedStyle(node).stroke), ground(node.closest("svg")), 3, "dot or line");
  }
  return { seen, found: [...new Set(found)] };
}
