// What is served: the bundle's card, its figures, its release, live items, and the service.

import { copyButton, el, facts, fold, setShare } from "./dom.js";
import * as words from "./words.js";

/** A count if it is above 0, else null: of facts that are worth a line only then. */
const some = (value) => (Number(value) > 0 ? words.count(value) : null);

/** A part as per cent. */
const percent = (part) => `${Number((part * 100).toFixed(part < 0.1 ? 1 : 0))} %`;

/** The cards about a bundle and its service; `open` unfolds them. */
export function serviceCards(info, gateway, open) {
  const cards = [
    ["Bundle", bundleFacts(info)],
    ["Figures", figures(info)],
    ["Release", release(info)],
    ["Live items", live(info)],
    ["Events and experiments", experiments(info)],
    ["Service", service(info, gateway)],
  ];
  return cards
    .map(([title, content]) => [title, content.flat().filter(Boolean)])
    .filter(([, content]) => content.length)
    .map(([title, content]) => fold(title, open, content));
}

function bundleFacts({ manifest, ...info }) {
  const {
    schema = {},
    precision = {},
    dataset = {},
    index,
    files,
    hybrid,
    score,
    catalogue,
    refreshed_from: origin,
  } = manifest;
  const size = Object.values(files ?? {}).reduce((sum, file) => sum + Number(file?.size ?? 0), 0);
  const parts = ["train", "validation", "test"].filter((part) => dataset.parts?.[part] !== undefined);
  const built = info.state?.catalogue ? ` (${words.count(manifest.count)} built)` : "";
  return [
    el(
      "div.towers",
      tower("Query tower", "query", schema.query ?? info.query_features, precision.query),
      el("span.dimension", { title: "dimension of the vectors" }, `D ${words.count(info.dimension)}`),
      tower("Item tower", "item", schema.item, precision.item),
    ),
    facts([
      ["Name", info.name],
      ["Version", version(info.bundle_version, "bundle version")],
      ["Items", words.count(info.item_count) + built],
      ["Score", score?.kind.replaceAll("_", " ")],
      [
        "Hybrid",
        hybrid && `BM25, weight ${Number(hybrid.weight)}`,
      ],
      [
        "Index",
        index && (index.kind || (index.exact ? "exact search" : `HNSW, M ${index.m}, ef ${index.ef_search}`)),
      ],
      ["Vectors", precision.vectors],
      ["Size", size > 0 && bytes(size)],
      ["Data set", [...new Set([dataset.name, dataset.kind].filter(Boolean))].join(", ")],
      ["Pairs", parts.map((part) => `${words.count(dataset.parts[part])} ${part}`).join(", ")],
      ["Run", version(info.run_id, "run id")],
      ["Commit", version(manifest.git_commit, "commit")],
      ["Towers of", origin && version(origin.bundle_version, "version of the bundle it was refreshed from")],
      ["Items as of", catalogue && `sequence ${words.count(catalogue.sequence)}`],
    ]),
  ];
}

function tower(title, side, features, variant) {
  const kinds = Object.entries(features ?? {}).map(([name, spec]) => [name, spec.kind ?? spec]);
  return el(
    `section.tower.${side}`,
    el("h3", title),
    el(
      "ul",
      kinds.map(([name, kind]) =>
        el("li", el("span", { dir: "auto" }, name), name !== kind && el("em", kind)),
      ),
    ),
    variant && el("small", variant.replaceAll("_", " ")),
  );
}

const METRICS = { recall_at_10: "recall@10", mrr_at_10: "MRR@10", ndcg_at_10: "nDCG@10" };
const SYSTEMS = {
  "": "served",
  exact: "towers alone",
  bm25: "BM25",
  bm25_full: "BM25, full texts",
  tfidf: "TF-IDF",
  ease: "EASE",
  itemknn: "item-kNN",
  slist: "SLIST",
};

function figures({ manifest, figures: given = [] }) {
  const { quality = {}, ann = {}, latency = {}, parity = {} } = manifest;
  const p50 = (latency.metrics ?? latency).query_tower_b1_p50_us;
  const differences = [parity, parity.query, parity.item]
    .map((each) => each?.max_abs_diff)
    .filter(Number.isFinite);
  const others = given.length
    ? []
    : Object.entries(quality)
        .filter(([, value]) => typeof value === "number")
        .slice(0, 8);
  return [
    given.length > 0 &&
      quality.queries > 0 &&
      el(
        "p.hint",
        `On ${words.count(quality.queries)} queries of the test split; a band is a confidence interval.`,
      ),
    Object.keys(METRICS).map((name) =>
      metricBars(
        name,
        given.filter(({ metric }) => metric === name),
      ),
    ),
    facts([
      ...others.map(([name, value]) => [name.replaceAll("_", " "), words.digits(value)]),
      ["Index recall@10", ann.ann_recall_at_10?.toFixed(4)],
      ["Query tower, p50", p50 && words.duration(p50)],
      ["Parity", differences.length > 0 && `within ${Math.max(...differences).toExponential(1)}`],
    ]),
  ];
}

function metricBars(name, rows) {
  if (!rows.length) return null;
  const best = Math.max(...rows.map(({ value }) => value));
  rows.sort((a, b) => Boolean(a.system) - Boolean(b.system) || b.value - a.value);
  return el(
    "section.metric",
    el("h3", METRICS[name]),
    rows.map(({ system, value, low, high }) => {
      const band = low !== undefined && setShare(setShare(el("span.interval"), low, "--low"), high, "--high");
      return el(
        system ? "div.metric-row" : "div.metric-row.served",
        el("span.metric-name", SYSTEMS[system] ?? system.replaceAll("_", " ")),
        setShare(el("span.metric-bar", band), value),
        el(
          "span.number",
          { title: band && `${low.toFixed(3)} to ${high.toFixed(3)}` },
          value.toFixed(3),
          value === best && el("span.unseen", " (best)"),
        ),
      );
    }),
  );
}

function release({ state = {} }) {
  const { bundles = [], following, shadow } = state;
  return [
    bundles.length > 0 &&
      el(
        "table.bundles",
        el(
          "thead",
          el(
            "tr",
            ["Role", "Bundle", "Share", "Requests"].map((name) => el("th", { scope: "col" }, name)),
          ),
        ),
        el(
          "tbody",
          bundles.map((each) =>
            el(
              "tr",
              el("th", { scope: "row" }, el(`span.role.${each.role}`, each.role)),
              el(
                "td",
                el("code", { title: each.bundle_version }, each.bundle_version.slice(0, 8)),
                each.model_version && ` v${each.model_version}`,
              ),
              el("td.number", percent(each.share)),
              el("td.number", words.count(each.requests), errors(each)),
            ),
          ),
        ),
      ),
    following &&
      facts([
        ["Follows", following.model],
        ["Last swap", words.ago(following.last_swap) ?? "none since the start"],
        ["Swaps", words.count(following.swaps)],
        ["Refused by checks", some(following.refused)],
        ["Registry asked", words.ago(following.last_check)],
        ["Candidate", following.candidate && `version ${following.candidate}: ${following.candidate_stage}`],
      ]),
    warning(following),
    shadow && el("h3", "Shadow"),
    shadow &&
      facts([
        ["Model", shadow.model],
        ["Version", version(shadow.bundle_version, "shadow's bundle version")],
        ["Searches repeated", words.count(shadow.queries)],
        ["Overlap of the first 10", some(shadow.queries) && percent(shadow.overlap_at_10)],
        ["Score shift", some(shadow.queries) && words.digits(shadow.score_shift)],
        ["Dropped", some(shadow.dropped)],
      ]),
    warning(shadow),
  ];
}

/** Errors that the service caused, and grey those that its clients caused. */
function errors({ errors: all = 0, failures = 0 }) {
  return [
    some(failures) && el("em.bad", ` ${words.count(failures)} failed`),
    some(all - failures) &&
      el("em.of-clients", ` ${words.count(all - failures)} refused (client's errors)`),
  ];
}

const warning = (part) => part?.last_error && el("p.notice", part.last_error);

function live({ state = {}, manifest }) {
  const of = state.catalogue;
  if (!of) return [];
  const overlay = Number(of.live_items) + Number(of.tombstones);
  const most = Number(of.bounds?.max_overlay);
  const lag = Number(of.sequence) - Number(of.worker_sequence);
  return [
    facts([
      ["Written since the build", words.count(of.live_items)],
      ["Deleted since", words.count(of.tombstones)],
      ["Store's sequence", words.count(of.sequence)],
      ["Not yet searched", lag > 0 ? words.plural(lag, "change") : "none"],
      ["Bundle's sequence", manifest.catalogue && words.count(manifest.catalogue.sequence)],
    ]),
    most > 0 && setShare(el("span.metric-bar"), overlay / most),
    most > 0 &&
      el("p.hint", `${percent(overlay / most)} of ${words.count(most)} until make refresh is due`),
    warning(of),
  ];
}

/** What users' events and the served log hold, and how far an interleaved comparison has come. */
function experiments({ state = {} }) {
  const { events, interleaving: mixed, served_log: log } = state;
  return [
    facts([
      ["Events stored", events && `${words.count(events.stored)} since the start`],
      ["Interleaved", mixed && `${percent(mixed.share)} of the searches, while there is a canary`],
      ["Answers of both", mixed && words.count(mixed.answers)],
      ["Of the champion alone", mixed && some(mixed.alone)],
      ["Which one users prefer", mixed && el("code", "python -m twinspire.export judge")],
      ["Log takes", log && `${percent(log.share)} of the answers`],
      ["Explored", log && (log.explore_share ? `${percent(log.explore_share)} of the answers` : "none")],
      ["Answers in the log", log && words.count(log.rows)],
      ["Dropped", log && words.count(log.dropped)],
      ["Size of the log", log && bytes(Number(log.bytes))],
    ]),
    warning(events),
    warning(log),
  ].filter((each) => each && (each.childElementCount || each.textContent));
}

function service({ state = {}, display_fields: fields = [] }, gateway) {
  const image = gateway.image_field;
  const guards = [
    state.tls && "TLS",
    state.client_certificates && "client certificates",
    state.tokens && "tokens",
  ];
  const counts = (given = {}) =>
    Object.entries(given)
      .filter(([name, number]) => name !== "OK" && Number(number) > 0)
      .map(([name, number]) => `${words.count(number)} ${name}`)
      .join(", ");
  return [
    facts([
      ["Compares", gateway.compare && "with a challenger"],
      ["Images", image && (fields.includes(image) ? `field ${image}` : `no display field is named ${image}`)],
      ["Gateway", gateway.version],
      ["Up for", state.uptime_seconds > 0 && words.seconds(state.uptime_seconds)],
      ["Workers", state.workers > 0 && `${state.workers_up} of ${state.workers}`],
      ["Restarts", some(state.restarts)],
      ["Queries", some(state.queries)],
      ["Other than OK", counts(state.requests)],
      ["Refused", counts(state.refused)],
      ["Queue", state.queue_bound > 0 && `${state.queue_depth} of ${state.queue_bound}`],
      ["Protected by", guards.filter(Boolean).join(", ") || "nothing"],
      ["Rate limit", state.rate_per_second > 0 && `${words.digits(state.rate_per_second)} tokens/s`],
    ]),
  ];
}

/** A hash or version in short, with a button that copies it whole. */
const version = (text, label) =>
  text &&
  el("span.version", el("code", { title: text }, text.slice(0, 12)), copyButton(text, `Copy the ${label}`));

/** Bytes in the largest binary unit. */
function bytes(value) {
  const step = value > 0 ? Math.min(4, Math.floor(Math.log2(value) / 10)) : 0;
  return `${step ? words.digits(value / 1024 ** step) : value} ${["B", "KiB", "MiB", "GiB", "TiB"][step]}`;
}
