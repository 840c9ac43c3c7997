// Elements made from data. Text is always set as text, so nothing that a service sends becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export const at = (id) => document.getElementById(id);

/**
 * An element: `el("button.ghost", { title: "…", onclick }, "text", [more])`.
 * The second argument may hold attributes, listeners (`on…`), and `data`. Attributes and children that are false,
 * null, undefined or an empty text are left out.
 */
export function el(tag, ...rest) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  const given = rest[0]?.constructor === Object ? rest.shift() : {};
  for (const [key, value] of Object.entries(given)) {
    if (key === "data") Object.assign(made.dataset, value);
    else if (key.startsWith("on")) made[key] = value;
    else if (isGiven(value)) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...rest.flat(Infinity).filter(isGiven));
  return made;
}

const isGiven = (value) => value !== false && value !== null && value !== undefined && value !== "";

/** An element of the page's template of texts; null where it has none of this id. */
export const textOf = (id) => at("texts").content.getElementById(id);

/** A copy of such an element, without its id. */
export function copyOf(id) {
  const made = textOf(id)?.cloneNode(true) ?? null;
  made?.removeAttribute("id");
  return made;
}

/** A button. */
export const button = (tag, label, onclick, given = {}) =>
  el(`button.${tag}`, { type: "button", onclick, ...given }, label);

/** A part of the page that can be folded. */
export const fold = (title, open, ...content) =>
  el("details.panel", { open }, el("summary", el("h2", title)), el("div.panel-body", content));

/** Pairs of name and value as a list; those without a value are left out. */
export function facts(pairs) {
  const given = pairs.filter(([, value]) => isGiven(value));
  return el(
    "dl.facts",
    given.map(([name, value]) => el("div", el("dt", name), el("dd", { dir: "auto" }, value))),
  );
}

const ICONS = {
  similar: "M15 9a6 6 0 1 0-12 0 6 6 0 0 0 12 0ZM21 15a6 6 0 1 0-12 0 6 6 0 0 0 12 0Z",
  close: "M6 6 18 18M18 6 6 18",
  copy: "M9 9H20V20H9ZM5 15H4V4H15V5",
  plus: "M12 5V19M5 12H19",
};

/** An icon of 14 pixels in the colour of the text; screen readers skip it. */
export function icon(name) {
  const made = document.createElementNS(SVG, "svg");
  const given = { viewBox: "0 0 24 24", width: 14, height: 14, class: "icon", "aria-hidden": "true" };
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  made.append(document.createElementNS(SVG, "path"));
  made.firstChild.setAttribute("d", ICONS[name]);
  return made;
}

/** A part of a whole as the length of a bar: the style sheets read `--share`, 0 to 1. */
export function setShare(element, share, name = "--share") {
  element.style.setProperty(name, Math.min(1, Math.max(0, share || 0)));
  return element;
}

/** A button that copies a text, and says so for a moment. */
export function copyButton(text, label, shown = "") {
  const copy = async () => {
    made.dataset.said = await navigator.clipboard.writeText(text).then(
      () => "copied",
      () => "not allowed",
    );
    setTimeout(() => delete made.dataset.said, 1200);
  };
  const made = button("ghost.copy", [icon("copy"), shown], copy, { title: label, "aria-label": label });
  return made;
}
