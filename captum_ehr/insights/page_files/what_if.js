// What the model itself says without a code, or with another value: the check of what
// is shown. One item of the patient at a time; a click on a chip chooses it.

function offerWhatIf(content, side, view) {
  const account = content.querySelector(".account");
  if (!transport.isLive || !overview.asks_model || !account || !view.rows.length) return;
  const items = new Map();
  for (const [feature, , , code, name, value] of view.rows) {
    const key = JSON.stringify([feature, code]);
    if (!items.has(key)) items.set(key, { feature, code, name, value });
  }
  const keys = [...items.keys()];
  const number = el("input", { type: "number", step: "any", required: true, "aria-label": "The value to set at all its times" });
  const answer = el("output", { class: "num", "aria-live": "polite" });
  const choose = el("select", { "aria-label": "Code or value to change", on: { change: shown } },
    keys.map((key) => {
      const { feature, code, name } = items.get(key);
      return el("option", { value: key }, shorten(`${feature}: ${code}${name ? ` ${name}` : ""}`, 60));
    }));
  const form = el("form", { class: "what-if", "aria-label": "What if" },
    el("b", null, "What if"), choose, el("span", { class: "muted" }), number, el("button", null, "Ask the model"), answer);
  const words = form.querySelector("span");

  function shown() {
    const { value } = items.get(choose.value);
    const isValue = value !== null;
    number.hidden = number.disabled = !isValue;
    words.textContent = isValue ? "were" : "had never been recorded";
    if (isValue) number.value = value;
    answer.textContent = "";
  }

  async function asked(event) {
    event.preventDefault();
    const { feature, code } = items.get(choose.value);
    const change = number.disabled ? { remove: [[feature, code]] } : { set: [[feature, code, number.valueAsNumber]] };
    answer.textContent = "…";
    try {
      const said = await transport.whatIf(side.row, settingOf(side), change);
      answer.textContent = said.words;
    } catch (error) {
      answer.textContent = error.message;
    }
  }

  form.addEventListener("submit", asked);
  account.parentElement.addEventListener("click", (event) => {
    const item = event.target.closest(".chip[data-code], .dot[data-code], td[data-code]");
    if (!item) return;
    const key = JSON.stringify([item.dataset.feature, item.dataset.code]);
    if (!items.has(key)) return;
    choose.value = key;
    shown();
  });
  shown();
  account.after(form);
}
