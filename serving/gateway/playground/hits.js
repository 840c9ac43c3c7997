// The list of hits: rank, fields, score as a bar, and what can be done with each.

import { breakable, copyButton, el, icon, setShare } from "./dom.js";
import { titleOf } from "./items_seen.js";
import * as words from "./words.js";

const LONG = 48; // characters from which a field is shown as a paragraph

/**
 * An ordered list of hits.
 * @param {Array} hits of a SearchResponse.
 * @param {Object} options
 * @param {Object} options.info of the bundle.
 * @param {number} options.top the score whose bar is full.
 * @param {string} [options.fusion] of the answer: which scores ranked.
 * @param {string} options.label of the list.
 * @param {function(Object): Node} [options.badge] beside a hit's score, such as its movement.
 * @param {function(string)} options.similar asks for more like a hit.
 * @param {function(string)} options.exclude leaves a hit out.
 * @param {function(string)|null} [options.follow] adds a hit to the history, where a history was asked with.
 * @param {boolean} [options.compact] without long fields.
 */
export function hitList(
  hits,
  { info, top, label, fusion, badge = () => null, similar, exclude, follow = null, compact = false },
) {
  const long = longFields(hits);
  return el(
    "ol",
    { class: compact ? "hits compact" : "hits", "aria-label": label },
    hits.map((hit, at) => hitRow(hit, at, { info, top, fusion, badge, similar, exclude, follow, compact, long })),
  );
}

/** Fields that are shown as paragraphs: those that are long in some hit. */
function longFields(hits) {
  return new Set(
    hits.flatMap((hit) =>
      Object.entries(hit.fields ?? {})
        .filter(([, value]) => value.length > LONG)
        .map(([name]) => name),
    ),
  );
}

function hitRow(hit, at, { info, top, fusion, badge, similar, exclude, follow, compact, long }) {
  const title = titleOf(hit, info);
  const shown = words.score(hit.score);
  const actions = el(
    "div",
    { class: "hit-actions" },
    el(
      "button",
      {
        type: "button",
        class: "ghost similar",
        "aria-label": `More like ${title}`,
        on: { click: () => similar(hit.id) },
      },
      icon("similar", 14),
      el("span", {}, compact ? "Like this" : "More like this"),
    ),
    follow &&
      el(
        "button",
        {
          type: "button",
          class: "ghost follow",
          "aria-label": `Add ${title} to the history`,
          on: { click: () => follow(hit.id) },
        },
        icon("plus", 14),
        el("span", {}, "Add"),
      ),
    el(
      "button",
      {
        type: "button",
        class: "ghost exclude",
        "aria-label": `Exclude ${title}`,
        on: { click: () => exclude(hit.id) },
      },
      icon("close", 14),
      el("span", {}, "Exclude"),
    ),
    copyButton(hit.id, `Copy the id ${hit.id}`),
  );
  return el(
    "li",
    {
      class: "hit",
      tabindex: at === 0 ? 0 : -1,
      data: { id: hit.id },
      "aria-label": `${at + 1}. ${title}, score ${shown}`,
      on: {
        keydown: (event) => {
          if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
          if (event.key === "m" || event.key === "Enter") similar(hit.id);
          else if (event.key === "x") exclude(hit.id);
          else if (event.key === "h") follow?.(hit.id);
        },
      },
    },
    el("span", { class: "rank", "aria-hidden": "true" }, at + 1),
    el(
      "div",
      { class: "hit-body" },
      el("h3", { class: "hit-title", dir: "auto" }, breakable(title)),
      compact ? null : paragraphs(hit, title, long),
      el("div", { class: "hit-foot" }, !compact && shortFields(hit, title, info, long), actions),
    ),
    el(
      "div",
      { class: "hit-score" },
      badge(hit, at),
      el("span", { class: "score" }, shown),
      setShare(
        el("span", { class: hit.score < 0 ? "score-bar negative" : "score-bar" }),
        top > 0 ? hit.score / top : 0,
      ),
      parts(hit, fusion),
    ),
  );
}

/** What vectors, words and clicks gave, where words took part in the ranking. */
function parts(hit, fusion) {
  if (fusion !== "FUSION_HYBRID" && fusion !== "FUSION_LEXICAL") return null;
  return el(
    "dl",
    { class: "score-parts" },
    [
      ["vectors", hit.dense],
      ["words", hit.lexical],
      ...(hit.prior === undefined ? [] : [["clicks", hit.prior]]),
    ].map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, words.digits(value ?? 0)))),
  );
}

function paragraphs(hit, title, long) {
  return Object.entries(hit.fields ?? {})
    .filter(([name, value]) => long.has(name) && value && value !== title)
    .map(([name, value]) =>
      el("p", { class: "hit-text", dir: "auto", title: `${name}: ${value}` }, linked(value)),
    );
}

/** The other display fields in the order of the bundle, and the id where it is not the title. */
function shortFields(hit, title, info, long) {
  const order = info.display_fields ?? Object.keys(hit.fields ?? {});
  const given = order
    .map((name) => [name, hit.fields?.[name]])
    .filter(([name, value]) => value && value !== title && !long.has(name));
  if (title !== hit.id) given.push(["id", el("code", {}, hit.id)]);
  return el(
    "dl",
    { class: "hit-fields" },
    given.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, linked(value)))),
  );
}

/** A web address as a link; any other value as it is. */
function linked(value) {
  if (typeof value !== "string" || !/^https?:\/\/\S+$/.test(value) || !URL.canParse(value)) return value;
  return el("a", { href: value, target: "_blank", rel: "noopener noreferrer" }, value);
}

/** The score whose bar is full: the best, so that differences can be seen. */
export function topScore(...lists) {
  return Math.max(0, ...lists.flat().map((hit) => hit.score ?? 0));
}

/** Arrow keys through hits, in the order of the page; from the first up to the search box. */
export function hitKeys(event, container, searchBox) {
  const hits = [...container.querySelectorAll(".hit")];
  const here = hits.indexOf(document.activeElement?.closest?.(".hit"));
  const fromBox = document.activeElement === searchBox;
  if (!hits.length || (here < 0 && !fromBox)) return false;
  const steps = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: hits.length - 1 };
  if (!(event.key in steps) || (fromBox && event.key !== "ArrowDown")) return false;
  const next = steps[event.key];
  event.preventDefault();
  if (next < 0) searchBox?.focus();
  else focusHit(hits, Math.min(next, hits.length - 1));
  return true;
}

function focusHit(hits, at) {
  hits.forEach((each, place) => {
    each.tabIndex = place === at ? 0 : -1;
  });
  hits[at].focus();
  hits[at].scrollIntoView({ block: "nearest" });
}
