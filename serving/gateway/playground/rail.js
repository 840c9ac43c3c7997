// What is served: the bundle's card, its figures, its release, live items, and the service.

import { copyButton, el, setShare } from "./dom.js";
import { figuresPanel } from "./figures.js";
import { facts, panel } from "./panel.js";
import * as words from "./words.js";

/** The panels about a bundle and its service. */
export function railPanels(info, gateway) {
  const { manifest } = info;
  return [
    bundlePanel(info, manifest),
    figuresPanel(manifest),
    releasePanel(info, manifest),
    livePanel(info, manifest),
    servicePanel(info, gateway),
  ].filter(Boolean);
}

function version(text, label) {
  return text
    ? el(
        "span",
        { class: "version" },
        el("code", { title: text }, text.slice(0, 12)),
        copyButton(text, `Copy the ${label}`),
      )
    : null;
}

function bundlePanel(info, manifest) {
  const { schema = {}, precision = {}, dataset = {}, index, files } = manifest;
  const sizes = Object.values(files ?? {}).reduce((sum, file) => sum + Number(file?.size ?? 0), 0);
  return panel(
    "Bundle",
    true,
    el(
      "div",
      { class: "towers" },
      tower("Query tower", "query", schema.query ?? info.query_features, precision.query),
      el(
        "span",
        { class: "dimension", title: "dimension of the vectors" },
        `D ${words.count(info.dimension)}`,
      ),
      tower("Item tower", "item", schema.item, precision.item),
    ),
    facts([
      ["Name", info.name],
      ["Version", version(info.bundle_version, "bundle version")],
      ["Items", words.count(info.item_count)],
      ["Score", scoreInWords(manifest.score)],
      ["Hybrid", manifest.hybrid ? hybridInWords(manifest.hybrid) : null],
      ["Index", indexInWords(index)],
      ["Vectors", precision.vectors],
      ["Size", sizes ? words.bytes(sizes) : null],
      [
        "Data set",
        dataset.name && dataset.kind !== dataset.name ? `${dataset.name} (${dataset.kind})` : dataset.kind,
      ],
      ["Pairs", pairsInWords(dataset.parts)],
      ["Run", version(info.run_id, "run id")],
      ["Commit", version(manifest.git_commit, "commit")],
      [
        "Towers of",
        manifest.refreshed_from
          ? version(manifest.refreshed_from.bundle_version, "version of the bundle it was refreshed from")
          : null,
      ],
      ["Items as of", manifest.catalogue ? `sequence ${words.count(manifest.catalogue.sequence)}` : null],
    ]),
  );
}

function tower(title, side, features, variant) {
  const specs = Object.entries(features ?? {});
  return el(
    "section",
    { class: `tower ${side}` },
    el("h3", {}, title),
    el(
      "ul",
      {},
      specs.map(([name, spec]) => {
        const kind = typeof spec === "string" ? spec : spec.kind;
        return el("li", {}, el("span", { dir: "auto" }, name), name !== kind && el("em", {}, kind));
      }),
    ),
    variant && el("small", {}, variant.replaceAll("_", " ")),
  );
}

function pairsInWords(parts) {
  const named = ["train", "validation", "test"].filter((part) => parts?.[part] !== undefined);
  return named.map((part) => `${words.count(parts[part])} ${part}`).join(", ");
}

function scoreInWords(score) {
  if (!score) return null;
  return (
    { cosine: "cosine", inner_product: "inner product", sigmoid: "sigmoid of the inner product" }[
      score.kind
    ] ?? score.kind
  );
}

function hybridInWords(hybrid) {
  if (hybrid.method === "reciprocal_ranks") return "BM25, ranks added";
  return `BM25, weight ${Number(hybrid.weight)}`;
}

/** Kind and parameters of the index; the manifest leaves the kinds of an HNSW graph out. */
export function indexInWords(index) {
  if (!index) return null;
  if (index.kind) return index.kind;
  return isExact(index) ? "exact search" : `HNSW, M ${index.m}, ef ${index.ef_search}`;
}

/** Whether each search compares all items. */
export const isExact = (index) => Boolean(index?.exact);

function releasePanel(info) {
  const { bundles = [], following, shadow } = info.state ?? {};
  if (!bundles.length && !following && !shadow) return null;
  const at = (moment) => (moment ? `${words.seconds(Date.now() / 1000 - moment)} ago` : null);
  return panel(
    "Release",
    bundles.length > 1 || Boolean(following?.last_error || following?.candidate || shadow),
    bundles.length > 0 &&
      el(
        "table",
        { class: "bundles" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["Role", "Bundle", "Share", "Requests"].map((name) => el("th", { scope: "col" }, name)),
          ),
        ),
        el(
          "tbody",
          {},
          bundles.map((each) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, el("span", { class: `role ${each.role}` }, each.role)),
              el(
                "td",
                {},
                el("code", { title: each.bundle_version }, (each.bundle_version ?? "").slice(0, 8)),
                each.model_version && ` v${each.model_version}`,
              ),
              el("td", { class: "number" }, words.percent(each.share ?? 0)),
              el(
                "td",
                { class: "number" },
                words.count(each.requests),
                Number(each.errors) > 0 && el("em", { class: "bad" }, ` ${words.count(each.errors)} failed`),
              ),
            ),
          ),
        ),
      ),
    following &&
      facts([
        ["Follows", following.model],
        ["Last swap", at(following.last_swap) ?? "none since the start"],
        ["Swaps", words.count(following.swaps)],
        ["Refused by checks", Number(following.refused) ? words.count(following.refused) : null],
        ["Registry asked", at(following.last_check)],
        [
          "Candidate",
          following.candidate ? `version ${following.candidate}: ${following.candidate_stage}` : null,
        ],
      ]),
    following?.last_error && el("p", { class: "notice warn" }, following.last_error),
    shadow && [
      el("h3", {}, "Shadow"),
      facts([
        ["Model", shadow.model],
        ["Version", version(shadow.bundle_version, "shadow's bundle version")],
        ["Searches repeated", words.count(shadow.queries)],
        ["Overlap of the first 10", Number(shadow.queries) ? words.percent(shadow.overlap_at_10 ?? 0) : null],
        ["Score shift", Number(shadow.queries) ? words.digits(shadow.score_shift ?? 0) : null],
        ["Time over the champion's", Number(shadow.queries) ? words.digits(shadow.latency_ratio ?? 0) : null],
        ["Dropped", Number(shadow.dropped) ? words.count(shadow.dropped) : null],
      ]),
      shadow.last_error && el("p", { class: "notice warn" }, shadow.last_error),
    ],
  );
}

function livePanel(info, manifest) {
  const live = info.state?.catalogue;
  if (!live) return null;
  const lag = Number(live.sequence ?? 0) - Number(live.worker_sequence ?? 0);
  const overlay = Number(live.live_items ?? 0) + Number(live.tombstones ?? 0);
  const most = Number(live.bounds?.max_overlay ?? 0);
  return panel(
    "Live items",
    true,
    facts([
      ["Written since the build", words.count(live.live_items)],
      ["Deleted since", words.count(live.tombstones)],
      ["Store's sequence", words.count(live.sequence)],
      ["Not yet searched", lag > 0 ? words.plural(lag, "change") : "none"],
      ["Bundle's sequence", manifest.catalogue ? words.count(manifest.catalogue.sequence) : null],
    ]),
    most > 0 &&
      el(
        "div",
        { class: "gauge" },
        setShare(el("span", { class: "metric-bar" }), overlay / most),
        el("span", {}, `${words.percent(overlay / most)} of ${words.count(most)} until make refresh is due`),
      ),
    live.last_error && el("p", { class: "notice warn" }, live.last_error),
  );
}

function servicePanel(info, gateway) {
  const state = info.state ?? {};
  const failed = Object.entries(state.requests ?? {}).filter(([code]) => code !== "OK");
  const refused = Object.entries(state.refused ?? {}).filter(([, number]) => Number(number) > 0);
  const guards = [
    state.tls && "TLS",
    state.client_certificates && "client certificates",
    state.tokens && "tokens",
  ].filter(Boolean);
  return panel(
    "Service",
    false,
    facts([
      ["Compares", gateway?.compare ? "with a challenger" : null],
      ["Gateway", gateway?.version],
      ["Up for", state.uptime_seconds ? words.seconds(state.uptime_seconds) : null],
      ["Workers", state.workers ? `${state.workers_up ?? 0} of ${state.workers}` : null],
      ["Restarts", Number(state.restarts) ? words.count(state.restarts) : null],
      ["Queries", state.queries ? words.count(state.queries) : null],
      [
        "Other than OK",
        failed.length ? failed.map(([code, number]) => `${words.count(number)} ${code}`).join(", ") : null,
      ],
      [
        "Refused",
        refused.length
          ? refused.map(([reason, number]) => `${words.count(number)} ${reason}`).join(", ")
          : null,
      ],
      ["Queue", state.queue_bound ? `${state.queue_depth ?? 0} of ${state.queue_bound}` : null],
      ["Protected by", guards.length ? guards.join(", ") : "nothing"],
      ["Rate limit", state.rate_per_second ? `${words.digits(state.rate_per_second)} tokens/s` : null],
    ]),
  );
}
