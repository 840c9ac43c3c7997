// Champion and challenger side by side: their hits, and what moved between them.

import { drawing, el, shape } from "./dom.js";
import { hitList, topScore } from "./hits.js";
import { onServer, stagesOf } from "./latency.js";
import { duration, plural } from "./words.js";

/**
 * What moved between two answers.
 * @returns {{ranks: Map, both: number, rose: number, fell: number, stayed: number, added: number, gone: number}} `ranks` is
 *   id -> `[rank of the champion, rank of the challenger]`, counted from 0, undefined where it is no hit.
 */
export function movements(champion, challenger) {
  const ranks = new Map();
  champion.forEach((hit, at) => ranks.set(hit.id, [at, undefined]));
  challenger.forEach((hit, at) => ranks.set(hit.id, [ranks.get(hit.id)?.[0], at]));
  const moved = { ranks, both: 0, rose: 0, fell: 0, stayed: 0, added: 0, gone: 0 };
  for (const [before, after] of ranks.values()) {
    if (before === undefined) moved.added += 1;
    else if (after === undefined) moved.gone += 1;
    else {
      moved.both += 1;
      if (after < before) moved.rose += 1;
      else if (after > before) moved.fell += 1;
      else moved.stayed += 1;
    }
  }
  return moved;
}

/**
 * The comparison as a part of the page.
 * @param {{champion: Object, challenger: Object}} answers two SearchResponses.
 * @param {Object} options of `hitList`.
 */
export function comparisonView({ champion, challenger }, options) {
  const left = champion.hits ?? [];
  const right = challenger.hits ?? [];
  const moved = movements(left, right);
  const top = sameScale(champion, challenger)
    ? [topScore(left, right), topScore(left, right)]
    : [topScore(left), topScore(right)];
  const lines = drawing({ class: "slopes", "aria-hidden": "true" });
  const columns = el(
    "div",
    { class: "compare" },
    side(
      "champion",
      champion,
      hitList(left, {
        ...options,
        fusion: champion.fusion,
        compact: true,
        top: top[0],
        label: "Hits of the champion",
        badge: (hit) => goneBadge(moved.ranks.get(hit.id)),
      }),
    ),
    lines,
    side(
      "challenger",
      challenger,
      hitList(right, {
        ...options,
        fusion: challenger.fusion,
        compact: true,
        top: top[1],
        label: "Hits of the challenger",
        badge: (hit) => movedBadge(moved.ranks.get(hit.id)),
      }),
    ),
  );
  const draw = () => drawSlopes(lines, columns, moved.ranks);
  new ResizeObserver(draw).observe(columns);
  for (const event of ["pointerover", "focusin"]) {
    columns.addEventListener(event, ({ target }) => link(columns, target.closest(".hit")?.dataset.id));
  }
  columns.addEventListener("pointerleave", () => link(columns));
  return el("div", { class: "comparison" }, summary(moved, champion, challenger), columns);
}

function summary(moved, champion, challenger) {
  const took = (answer) => onServer(stagesOf(answer.timing, 0));
  const more = took(challenger) - took(champion);
  const tiles = [
    ["both", moved.both, "in both"],
    ["stayed", moved.stayed, "same rank"],
    ["rose", moved.rose, "rose"],
    ["fell", moved.fell, "fell"],
    ["added", moved.added, "new"],
    ["gone", moved.gone, "gone"],
  ];
  return el(
    "div",
    { class: "moved", role: "group", "aria-label": "What moved" },
    tiles.map(([name, value, label]) =>
      el("span", { class: `tile ${name}` }, el("strong", {}, value), ` ${label}`),
    ),
    el(
      "span",
      { class: "tile pace" },
      el("strong", {}, duration(Math.abs(more))),
      more >= 0 ? " slower" : " faster",
    ),
  );
}

function side(role, answer, list) {
  const hits = answer.hits ?? [];
  return el(
    "section",
    { class: `side ${role}`, "aria-label": role },
    el(
      "header",
      { class: "side-head" },
      el("h2", {}, role === "champion" ? "Champion" : "Challenger"),
      el("code", { title: answer.bundle_version ?? "" }, (answer.bundle_version ?? "").slice(0, 12)),
      el(
        "span",
        { class: "side-time" },
        `${plural(hits.length, "hit")} in ${duration(onServer(stagesOf(answer.timing, 0)))}`,
      ),
    ),
    hits.length ? list : el("p", { class: "empty-side" }, "No hits."),
  );
}

/** Scores of two models can be compared where both are of the same kind; the request is the same. */
function sameScale(champion, challenger) {
  return ["basis", "fusion"].every((key) => (champion[key] ?? "") === (challenger[key] ?? ""));
}

function movedBadge([before, after]) {
  if (before === undefined) return badge("added", "new", "new: the champion does not have it");
  const step = before - after;
  if (step === 0) return badge("stayed", "=", "same rank");
  return step > 0
    ? badge("rose", `▲ ${step}`, `rose by ${step}`)
    : badge("fell", `▼ ${-step}`, `fell by ${-step}`);
}

function goneBadge([, after]) {
  return after === undefined ? badge("gone", "gone", "gone: the challenger does not have it") : null;
}

function badge(kind, text, meaning) {
  return el(
    "span",
    { class: `badge ${kind}`, title: meaning },
    el("span", { "aria-hidden": "true" }, text),
    el("span", { class: "unseen" }, meaning),
  );
}

/** Show which places of both lists are the same item. */
function link(columns, id) {
  for (const each of columns.querySelectorAll("[data-id]"))
    each.classList.toggle("linked", id !== undefined && each.dataset.id === id);
}

/** A line from each hit's place on the left to its place on the right. */
function drawSlopes(lines, columns, ranks) {
  const frame = lines.getBoundingClientRect();
  if (frame.width < 8) {
    lines.replaceChildren();
    return;
  }
  const rows = (role) =>
    [...columns.querySelectorAll(`.${role} .hit`)].map((row) => {
      const { top, height } = row.getBoundingClientRect();
      return top + height / 2 - frame.top;
    });
  const [left, right] = [rows("champion"), rows("challenger")];
  lines.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  lines.replaceChildren(
    ...[...ranks]
      .filter(([, [before, after]]) => before !== undefined && after !== undefined)
      .map(([id, [before, after]]) => {
        const [from, to, bend] = [left[before], right[after], frame.width / 2];
        const kind = after < before ? "rose" : after > before ? "fell" : "stayed";
        return shape("path", {
          class: kind,
          "data-id": id,
          d: `M2 ${from}C${bend} ${from} ${bend} ${to} ${frame.width - 2} ${to}`,
        });
      }),
  );
}
