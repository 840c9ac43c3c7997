// What the service reports, in words.

import { textOf } from "./dom.js";

const plain = (name) =>
  String(name)
    .replace(/^[A-Z]+_/, "")
    .toLowerCase()
    .replaceAll("_", " ");

/** The sentence of the page for a value of the service; a value that it has none for is shown as it is. */
const sentence = (value, other) => textOf(value)?.textContent ?? `${other} ${plain(value)}.`;

/** What an answer rests on. */
export const basisInWords = (basis = "BASIS_QUERY", mode = "text") =>
  sentence(mode === "item" && basis === "BASIS_QUERY" ? "BASIS_ITEM" : basis, "The answer rests on");

/** How the items were searched; `exact` says that the bundle's index compares all of them. */
export const planInWords = (plan = "PLAN_UNFILTERED", exact = false) =>
  sentence(exact && plan === "PLAN_UNFILTERED" ? "PLAN_ALL" : plan, "Searched by");

/** Which scores ranked the hits; empty where the bundle ranks by vectors alone. */
export const fusionInWords = (fusion = "FUSION_DEFAULT") => sentence(fusion, "Ranked by");

/** A number in three significant digits. */
export const digits = (value) =>
  value >= 100 ? Math.round(value).toLocaleString("en") : Number(value).toPrecision(3);

/** A duration of microseconds: `840 µs`, `1.32 ms`, `2.10 s`. */
export function duration(us) {
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 1e6 ? `${digits(us / 1000)} ms` : `${digits(us / 1e6)} s`;
}

/** A count with thousands separators. */
export const count = (value) => Number(value ?? 0).toLocaleString("en");

/** `1 item`, `2 items`. */
export const plural = (value, noun) => `${count(value)} ${noun}${Number(value) === 1 ? "" : "s"}`;

/** A score as the list shows it. */
export function score(value = 0) {
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  return value.toFixed(Math.abs(value) < 100 ? 4 : 1);
}

/** Seconds in the largest unit: `3 min`. */
export function seconds(value) {
  if (value < 60) return `${Math.max(1, Math.round(value))} s`;
  if (value < 3600) return `${Math.round(value / 60)} min`;
  return value < 86_400 ? `${Math.round(value / 3600)} h` : plural(Math.round(value / 86_400), "day");
}

/** How long ago a moment in Unix seconds was; null if there is none. */
export const ago = (moment) => (moment ? `${seconds(Date.now() / 1000 - moment)} ago` : null);
