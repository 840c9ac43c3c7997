// Where the time of an answer went: the service's stages, and the rest of the round trip.

import { el, setShare } from "./dom.js";
import { duration } from "./words.js";

const STAGES = [
  ["queue", "Queue", "until its batch began"],
  ["encode", "Encode", "query tower"],
  ["search", "Search", "index and fields"],
  ["transport", "Transport", "gateway, network, browser"],
];
const MAX_TRIPS = 30;

/** Microseconds of each stage, from a `Timing` and the milliseconds of the round trip. */
export function stagesOf(timing, milliseconds) {
  const [queue, encode, search] = ["queue", "encode", "search"].map((name) =>
    Number(timing?.[`${name}_us`] ?? 0),
  );
  return { queue, encode, search, transport: Math.max(0, milliseconds * 1000 - queue - encode - search) };
}

/** Microseconds that the service itself took. */
export const onServer = ({ queue, encode, search }) => queue + encode + search;

/** The stages as one bar, and folded a table of them; `trips` are the microseconds of all round trips so far. */
export function latencyFold(stages, trips, both) {
  const total = Object.values(stages).reduce((sum, each) => sum + each, 0) || 1;
  const recent = trips.slice(-MAX_TRIPS).sort((a, b) => a - b);
  return el(
    "details.latency",
    el(
      "summary",
      el("span.took", duration(onServer(stages)), both ? " in the service (champion)" : " in the service"),
      el("span.trip", `${duration(total)} round trip`),
      el(
        "span.stages",
        { "aria-hidden": "true" },
        STAGES.map(([name]) => setShare(el(`span.stage.${name}`), stages[name] / total)),
      ),
    ),
    el(
      "table.stage-table",
      el(
        "tbody",
        STAGES.map(([name, label, note]) =>
          el(
            "tr",
            el("th", { scope: "row" }, el(`span.dot.${name}`, { "aria-hidden": "true" }), label),
            el("td.note", note),
            el("td.number", duration(stages[name])),
          ),
        ),
      ),
    ),
    recent.length > 1 &&
      el(
        "p.hint",
        `Median of the last ${recent.length} round trips: ${duration(recent[recent.length >> 1])}`,
      ),
  );
}
