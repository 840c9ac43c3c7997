// What was measured on a bundle: its metrics beside those of the baselines.

import { el, setShare } from "./dom.js";
import { facts, panel } from "./panel.js";
import * as words from "./words.js";

const METRIC = /^(?:(.+)_)?(recall|mrr|ndcg|hr|map|precision)_at_(\d+)$/;
const METRIC_NAMES = {
  recall: "recall",
  mrr: "MRR",
  ndcg: "nDCG",
  hr: "hit rate",
  map: "MAP",
  precision: "precision",
};
const SHOWN_METRICS = ["recall_at_10", "mrr_at_10", "ndcg_at_10"];
const SERVED = "served";

/** The card; null where the manifest holds no figures. */
export function figuresPanel(manifest) {
  const quality = manifest.quality ?? {};
  const groups = new Map(); // metric@k -> Map(system -> {value, low, high})
  for (const [key, value] of Object.entries(quality)) {
    const found = METRIC.exec(key);
    if (!found || typeof value !== "number") continue;
    const [, system = SERVED, metric, k] = found;
    const name = `${metric}_at_${k}`;
    if (!groups.has(name)) groups.set(name, new Map());
    groups.get(name).set(system, { value, low: quality[`${key}_low`], high: quality[`${key}_high`] });
  }
  const named = SHOWN_METRICS.filter((name) => groups.has(name));
  const shown = named.length ? named : [...groups.keys()].slice(0, 3);
  const rest = shown.length
    ? []
    : Object.entries(quality)
        .filter(([, value]) => typeof value === "number")
        .slice(0, 8);
  const ann = manifest.ann?.ann_recall_at_10;
  const latency = manifest.latency?.metrics ?? manifest.latency ?? {};
  if (!shown.length && !rest.length && ann === undefined) return null;
  return panel(
    "Figures",
    true,
    quality.queries &&
      el(
        "p",
        { class: "hint" },
        `Measured on ${words.count(quality.queries)} queries of the test split; a band is a confidence interval.`,
      ),
    shown.map((name) => metricBars(name, groups.get(name))),
    facts([
      ...rest.map(([name, value]) => [name.replaceAll("_", " "), words.digits(value)]),
      ["Index recall@10", ann === undefined ? null : ann.toFixed(4)],
      [
        "Query tower, p50",
        latency.query_tower_b1_p50_us ? words.duration(latency.query_tower_b1_p50_us) : null,
      ],
      ["Parity", parityOf(manifest.parity)],
    ]),
  );
}

function metricBars(name, systems) {
  const [, , metric, k] = METRIC.exec(name);
  const order = [...systems].sort(
    ([a], [b]) => (b === SERVED) - (a === SERVED) || systems.get(b).value - systems.get(a).value,
  );
  const best = Math.max(...order.map(([, { value }]) => value));
  return el(
    "section",
    { class: "metric" },
    el("h3", {}, `${METRIC_NAMES[metric]}@${k}`),
    order.map(([system, { value, low, high }]) =>
      el(
        "div",
        { class: system === SERVED ? "metric-row served" : "metric-row" },
        el("span", { class: "metric-name" }, systemName(system)),
        metricBar(value, low, high),
        el(
          "span",
          { class: "number", title: low === undefined ? null : `${low.toFixed(3)} to ${high.toFixed(3)}` },
          value.toFixed(3),
          value === best && el("span", { class: "unseen" }, " (best)"),
        ),
      ),
    ),
  );
}

/** A bar, and on it the confidence interval where the manifest has one. */
function metricBar(value, low, high) {
  const bar = setShare(el("span", { class: "metric-bar" }), value);
  if (low === undefined || high === undefined) return bar;
  const band = el("span", { class: "interval" });
  band.style.setProperty("--low", String(low));
  band.style.setProperty("--high", String(high));
  bar.append(band);
  return bar;
}

const systemName = (system) =>
  ({ [SERVED]: "served", exact: "exact search", bm25: "BM25", ease: "EASE" })[system] ??
  system.replaceAll("_", " ");

function parityOf(parity = {}) {
  const found = [parity.max_abs_diff, parity.query?.max_abs_diff, parity.item?.max_abs_diff].filter(
    (each) => typeof each === "number",
  );
  return found.length ? `within ${Math.max(...found).toExponential(1)}` : null;
}
