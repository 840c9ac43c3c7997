// A field for one value or several, with suggestions: a combobox whose values stand beside it as chips.

import { el, icon } from "./dom.js";

const MAX_SUGGESTIONS = 8;
const PAUSE_MS = 120; // after a key, before suggestions are asked for

let made = 0;

/**
 * @param {Object} options
 * @param {string} options.label read by screen readers, and shown if `shown`.
 * @param {string[]} options.values at the beginning.
 * @param {boolean} options.multiple several values, as chips; else the input itself holds the value.
 * @param {function(string): Promise<Array<{value, label}>>|Array} options.suggest for what was typed.
 * @param {function(string[], boolean)} options.onChange gets the values, and whether they are still being typed.
 * @param {boolean} [options.eager] suggest already before something was typed.
 * @param {function(string): string} [options.name] what a chip shows of a value.
 * @returns {{element: HTMLElement, input: HTMLInputElement}}
 */
export function choiceField({
  label,
  shown = true,
  values,
  multiple = true,
  suggest = () => [],
  onChange,
  name = (v) => v,
  placeholder = "",
  type = "text",
  eager = false,
}) {
  made += 1;
  const id = `choice-${made}`;
  let current = [...values];
  let options = [];
  let active = -1;
  let asked = 0;
  let timer = 0;

  const input = el("input", {
    id,
    type: "text",
    role: "combobox",
    placeholder,
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    inputmode: type === "number" ? "decimal" : null,
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": `${id}-list`,
    "aria-label": shown ? null : label,
  });
  const list = el("ul", {
    id: `${id}-list`,
    class: "suggestions",
    role: "listbox",
    "aria-label": `Suggestions for ${label}`,
    hidden: true,
  });
  const chips = el("ul", { class: "chips", "aria-label": label });
  const box = el("div", { class: "choice-box" }, multiple && chips, input);
  const element = el(
    "div",
    { class: "choice" },
    shown && el("label", { class: "label", for: id }, label),
    box,
    list,
  );
  if (!multiple) input.value = current[0] ?? "";

  function showChips() {
    chips.replaceChildren(
      ...current.map((value, at) =>
        el(
          "li",
          { class: "chip" },
          el("span", { dir: "auto", title: value }, name(value)),
          el(
            "button",
            { type: "button", "aria-label": `Remove ${value}`, on: { click: () => remove(at) } },
            icon("close", 12),
          ),
        ),
      ),
    );
    chips.hidden = current.length === 0;
    input.placeholder = current.length ? "" : placeholder;
  }

  function change(next) {
    current = next;
    if (multiple) showChips();
    onChange(current);
  }

  function remove(at) {
    change(current.filter((_, place) => place !== at));
    input.focus();
  }

  function add(value) {
    const trimmed = value.trim();
    close();
    if (!multiple) {
      input.value = trimmed;
      change(trimmed ? [trimmed] : []);
      return;
    }
    input.value = "";
    if (trimmed && !current.includes(trimmed)) change([...current, trimmed]);
  }

  function close() {
    asked += 1;
    clearTimeout(timer);
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function offer() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      asked += 1;
      const turn = asked;
      const found = (await suggest(input.value.trim())).filter(
        ({ value }) => !multiple || !current.includes(value),
      );
      if (turn !== asked || document.activeElement !== input) return;
      options = found.slice(0, MAX_SUGGESTIONS);
      if (!options.length) {
        close();
        return;
      }
      active = -1;
      list.replaceChildren(
        ...options.map(({ value, label: text }, at) =>
          el(
            "li",
            {
              id: `${id}-${at}`,
              role: "option",
              "aria-selected": "false",
              on: {
                mousedown: (event) => {
                  event.preventDefault();
                  add(value);
                },
              },
            },
            el("span", { class: "suggested", dir: "auto" }, value),
            text && text !== value && el("span", { class: "suggested-label", dir: "auto" }, text),
          ),
        ),
      );
      list.hidden = false;
      input.setAttribute("aria-expanded", "true");
    }, PAUSE_MS);
  }

  function move(step) {
    active = (active + step + options.length) % options.length;
    [...list.children].forEach((each, at) => each.setAttribute("aria-selected", String(at === active)));
    input.setAttribute("aria-activedescendant", `${id}-${active}`);
    list.children[active].scrollIntoView({ block: "nearest" });
  }

  input.addEventListener("input", () => {
    if (!multiple) {
      current = input.value.trim() ? [input.value.trim()] : [];
      onChange(current, true);
    }
    offer();
  });
  input.addEventListener("change", () => {
    if (!multiple) onChange(current);
  });
  if (eager) input.addEventListener("focus", offer);
  input.addEventListener("blur", () => {
    if (multiple && input.value.trim()) add(input.value);
    close();
  });
  input.addEventListener("keydown", (event) => {
    const open = !list.hidden;
    if (open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      event.stopPropagation();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "ArrowDown" && event.altKey) {
      event.preventDefault();
      offer();
    } else if (event.key === "Escape" && open) {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && open && active >= 0) {
      event.preventDefault();
      add(options[active].value);
    } else if (event.key === "Enter" && multiple && input.value.trim()) {
      event.preventDefault();
      add(input.value);
    } else if (event.key === "Backspace" && multiple && !input.value && current.length) {
      remove(current.length - 1);
    }
  });
  if (multiple) showChips();
  return { element, input };
}
