// Elements made from data. Text is always set as text, so nothing that a service sends becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag
 * @param {Object} given attributes; `class`, `on: {event: function}` and `data: {name: value}` too. An attribute that
 *   is false, null or undefined is left out.
 * @param {...(Node|string|number|null|false|Array)} children
 */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (name === "data") {
      Object.assign(made.dataset, value);
    } else {
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  made.append(...present(children));
  return made;
}

/** Children that are there, in one list; numbers as text. */
export function present(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false && child !== "")
    .map((child) => (typeof child === "number" ? String(child) : child));
}

/** A text that may be broken after the dots, dashes and slashes of its names. */
export function breakable(text) {
  return text
    .split(/(?<=[._/:-])(?=\w)/)
    .flatMap((part, at) => (at ? [document.createElement("wbr"), part] : [part]));
}

/** A drawing; `children` are made by `shape`. */
export function drawing(given, ...children) {
  return withAttributes(document.createElementNS(SVG, "svg"), given, children);
}

/** A part of a drawing. */
export function shape(tag, given, ...children) {
  return withAttributes(document.createElementNS(SVG, tag), given, children);
}

function withAttributes(made, given, children) {
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, String(value));
  made.append(...present(children));
  return made;
}

const ICONS = {
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM15.5 15.5 20.5 20.5",
  similar: "M15 9a6 6 0 1 0-12 0 6 6 0 0 0 12 0ZM21 15a6 6 0 1 0-12 0 6 6 0 0 0 12 0Z",
  close: "M6 6 18 18M18 6 6 18",
  refresh: "M20 11A8 8 0 1 0 17.5 17.5M20 5V11H14",
  copy: "M9 9H20V20H9ZM5 15H4V4H15V5",
  plus: "M12 5V19M5 12H19",
  light:
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 2V4M12 20V22M2 12H4M20 12H22M4.9 4.9 6.3 6.3M17.7 17.7 19.1 19.1M4.9 19.1 6.3 17.7M17.7 6.3 19.1 4.9",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18ZM12 3V21M12 7 18.5 7M12 12H21M12 17 18.5 17",
  key: "M8 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 12H21V16M17 12V15",
  warning: "M12 4 21.5 20H2.5ZM12 10V14.5M12 17.2V17.5",
  filter: "M4 6H20M7 12H17M10 18H14",
  link: "M10 14 20 4M14 4H20V10M18 14V20H4V6H10",
};

/** An icon of 24 units that takes the colour of the text; screen readers skip it. */
export function icon(name, size = 16) {
  return drawing(
    {
      viewBox: "0 0 24 24",
      width: size,
      height: size,
      class: "icon",
      fill: "none",
      stroke: "currentColor",
      "stroke-width": 2,
      "stroke-linecap": "round",
      "stroke-linejoin": "round",
      "aria-hidden": "true",
    },
    shape("path", { d: ICONS[name] }),
  );
}

/** A part of a whole as the length of a bar: the style sheets read `--share`, 0 to 1. */
export function setShare(element, share) {
  element.style.setProperty("--share", String(Math.min(1, Math.max(0, share || 0))));
  return element;
}

/** A button that copies a text, and says so for a moment. */
export function copyButton(text, label, shown = "") {
  const button = el(
    "button",
    { type: "button", class: "ghost copy", title: label, "aria-label": label },
    icon("copy", 14),
    shown,
  );
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.dataset.said = "copied";
    } catch {
      button.dataset.said = "not allowed";
    }
    setTimeout(() => delete button.dataset.said, 1200);
  });
  return button;
}
