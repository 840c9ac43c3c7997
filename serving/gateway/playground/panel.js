// The cards at the side of the page.

import { el } from "./dom.js";

/** A card that can be closed. */
export function panel(title, open, ...children) {
  return el(
    "details",
    { class: "panel", open },
    el("summary", {}, el("h2", {}, title)),
    el("div", { class: "panel-body" }, ...children),
  );
}

/** Pairs of name and value; those without a value are left out. */
export function facts(pairs) {
  const given = pairs.filter(
    ([, value]) => value !== null && value !== undefined && value !== "" && value !== false,
  );
  return (
    given.length > 0 &&
    el(
      "dl",
      { class: "facts" },
      given.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, value))),
    )
  );
}
