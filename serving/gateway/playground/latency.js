// Where the time of an answer went: the service's stages, and the rest of the round trip.

import { el, drawing, setShare, shape } from "./dom.js";
import { duration } from "./words.js";

const STAGES = [
  ["queue", "Queue", "until its batch began"],
  ["encode", "Encode", "query tower"],
  ["search", "Search", "index and fields"],
  ["transport", "Transport", "gateway, network, browser"],
];
const MAX_TRIPS = 30;

/** Microseconds of each stage, from a `Timing` and the milliseconds of the round trip. */
export function stagesOf(timing = {}, milliseconds) {
  const queue = Number(timing.queue_us ?? 0);
  const encode = Number(timing.encode_us ?? 0);
  const search = Number(timing.search_us ?? 0);
  const transport = Math.max(0, milliseconds * 1000 - queue - encode - search);
  return { queue, encode, search, transport };
}

/** Microseconds that the service itself took. */
export const onServer = ({ queue, encode, search }) => queue + encode + search;

/** The stages as one bar and a table. */
export function latencyPanel(stages, trips, both = false) {
  const total = Object.values(stages).reduce((sum, each) => sum + each, 0) || 1;
  return el(
    "section",
    { class: "panel latency", "aria-label": "Latency" },
    el("h2", {}, both ? "Latency of the champion" : "Latency"),
    el(
      "p",
      { class: "figure" },
      el("strong", {}, duration(onServer(stages))),
      el("span", {}, "in the service"),
      el("strong", {}, duration(total)),
      el("span", {}, "round trip"),
    ),
    el(
      "div",
      { class: "stages", "aria-hidden": "true" },
      STAGES.map(([name]) => setShare(el("span", { class: `stage ${name}` }), stages[name] / total)),
    ),
    el(
      "table",
      { class: "stage-table" },
      el(
        "tbody",
        {},
        STAGES.map(([name, label, note]) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, el("span", { class: `dot ${name}`, "aria-hidden": "true" }), label),
            el("td", { class: "note" }, note),
            el("td", { class: "number" }, duration(stages[name])),
          ),
        ),
      ),
    ),
    trips.length > 1 && tripLine(trips),
  );
}

/** The last round trips as a line, with their median. */
function tripLine(trips) {
  const recent = trips.slice(-MAX_TRIPS);
  const most = Math.max(...recent);
  const width = 120;
  const height = 26;
  const points = recent.map(
    (each, at) =>
      `${((at / (recent.length - 1)) * (width - 4) + 2).toFixed(1)},${(height - 3 - (each / most) * (height - 6)).toFixed(1)}`,
  );
  const median = [...recent].sort((a, b) => a - b)[Math.floor(recent.length / 2)];
  return el(
    "div",
    { class: "trips" },
    drawing(
      { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      shape("polyline", { points: points.join(" ") }),
    ),
    el("span", {}, `median of the last ${recent.length}: ${duration(median)}`),
  );
}
