// A field for one value or several: an input with the browser's own list of suggestions, and values as chips.

import { button, el, icon } from "./dom.js";

const PAUSE_MS = 120; // after a key, before suggestions are asked for

let made = 0;

/**
 * @param {Object} given
 * @param {string} given.label for screen readers; shown in front of the field if `shown`.
 * @param {string[]} given.values at the beginning.
 * @param {boolean} given.multiple several values, as chips; else the input itself holds the value.
 * @param {function(string): Promise<Array<[string, string]>>|Array} given.suggest values and their names for a text.
 * @param {function(string[], boolean)} given.onChange gets the values, and whether they are still being typed.
 * @param {function(string): string} given.name what a chip shows of a value.
 * @param {Object} given.input more attributes of the input.
 */
export function field({
  label,
  shown = true,
  values,
  multiple = true,
  suggest = () => [],
  onChange,
  name = (value) => value,
  input: attributes = {},
}) {
  const list = el("datalist", { id: `suggestions-${(made += 1)}` });
  const input = el("input", {
    type: "text",
    "aria-label": label,
    list: list.id,
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    ...attributes,
  });
  const chips = el("ul.chips", { "aria-label": label });
  let current = [...values];
  let timer = 0;

  function show() {
    chips.replaceChildren(
      ...current.map((value) =>
        el(
          "li.chip",
          el("span", { dir: "auto", title: value }, name(value)),
          button("chip-end", icon("close"), () => remove(value), { "aria-label": `Remove ${value}` }),
        ),
      ),
    );
    chips.hidden = !current.length;
  }

  function change(next, typing = false) {
    current = next;
    if (multiple) show();
    onChange(current, typing);
  }

  function remove(value) {
    change(current.filter((each) => each !== value));
    input.focus();
  }

  /** Take what was typed: as one more chip, or as the value. */
  function take() {
    const typed = input.value.trim();
    if (!multiple) return change(typed ? [typed] : []);
    input.value = "";
    if (typed && !current.includes(typed)) change([...current, typed]);
  }

  function offer() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const found = await suggest(input.value.trim());
      list.replaceChildren(
        ...found.map(([value, text]) => el("option", { value }, text === value ? "" : text)),
      );
    }, PAUSE_MS);
  }

  input.onfocus = offer;
  input.onchange = take;
  input.oninput = () => {
    if (!multiple) change(input.value.trim() ? [input.value.trim()] : [], true);
    offer();
  };
  input.onkeydown = (event) => {
    if (event.key === "Enter" && multiple && input.value.trim()) {
      event.preventDefault();
      take();
    } else if (event.key === "Backspace" && multiple && !input.value && current.length) {
      remove(current.at(-1));
    }
  };
  if (multiple) show();
  else input.value = current[0] ?? "";
  return el(
    "div.choice",
    shown && el("span.label", { "aria-hidden": "true" }, label),
    el("div.choice-box", multiple && chips, input, list),
  );
}
