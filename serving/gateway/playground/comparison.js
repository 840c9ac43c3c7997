// Two answers side by side, such as champion and challenger: their hits, and what moved between them.

import { el } from "./dom.js";
import { hitList, topScore } from "./hits.js";
import { onServer, stagesOf } from "./latency.js";
import { duration, plural } from "./words.js";

const BUNDLES = [
  ["Champion", "champion"],
  ["Challenger", "challenger"],
];

/** The comparison of two SearchResponses, their titles and names in `names`; `page` as of `hitList`. */
export function comparisonView({ champion, challenger }, page, names = BUNDLES) {
  const ranks = (answer) => new Map(answer.hits.map((hit, rank) => [hit.id, rank]));
  const [before, after] = [ranks(champion), ranks(challenger)];
  const steps = challenger.hits.map((hit, rank) => before.get(hit.id) - rank); // NaN: new
  const count = (test) => steps.filter(test).length;
  const gone = champion.hits.filter((hit) => !after.has(hit.id)).length;
  const tiles = [
    ["both", champion.hits.length - gone, "in both"],
    ["stayed", count((step) => step === 0), "same rank"],
    ["rose", count((step) => step > 0), "rose"],
    ["fell", count((step) => step < 0), "fell"],
    ["added", count(Number.isNaN), "new"],
    ["gone", gone, "gone"],
  ];
  const slower = took(challenger) - took(champion);
  // Scores can be compared where both are of the same kind; the request is the same.
  const isSameScale = champion.basis === challenger.basis && champion.fusion === challenger.fusion;
  const side = (role, answer, badge) => {
    const [title, name] = names[Number(role === "challenger")];
    const top = isSameScale ? topScore(champion.hits, challenger.hits) : topScore(answer.hits);
    const { fusion, request_id: requestId } = answer;
    const list = { label: `Hits of the ${name}`, top, fusion, requestId, badge, compact: true };
    return el(
      `section.side.${role}`,
      { "aria-label": name },
      el(
        "header.side-head",
        el("h2", title),
        el("code", { title: answer.bundle_version }, answer.bundle_version.slice(0, 12)),
        el("span", `${plural(answer.hits.length, "hit")} in ${duration(took(answer))}`),
      ),
      answer.hits.length ? hitList(answer.hits, page, list) : el("p.blank", "No hits."),
    );
  };
  const sides = el(
    "div.compare",
    side(
      "champion",
      champion,
      ({ id }) => !after.has(id) && badge("gone", "gone", `gone: the ${names[1][1]} does not have it`),
    ),
    side("challenger", challenger, ({ id }) => movedBadge(before.get(id) - after.get(id), names[0][1])),
  );
  const link = ({ target }) => {
    const id = target.closest?.(".hit")?.dataset.id;
    for (const each of sides.querySelectorAll(".hit"))
      each.classList.toggle("linked", each.dataset.id === id);
  };
  sides.onpointerover = link;
  sides.addEventListener("focusin", link);
  return el(
    "div.comparison",
    el(
      "div.moved",
      { role: "group", "aria-label": "What moved" },
      tiles.map(([name, value, label]) => el(`span.tile.${name}`, el("strong", String(value)), ` ${label}`)),
      names === BUNDLES &&
        el("span.tile", el("strong", duration(Math.abs(slower))), slower >= 0 ? " slower" : " faster"),
    ),
    sides,
  );
}

const took = (answer) => onServer(stagesOf(answer.timing, 0));

function movedBadge(step, other) {
  if (Number.isNaN(step)) return badge("added", "new", `new: the ${other} does not have it`);
  if (step === 0) return badge("stayed", "=", "same rank");
  return step > 0
    ? badge("rose", `▲ ${step}`, `rose by ${step}`)
    : badge("fell", `▼ ${-step}`, `fell by ${-step}`);
}

const badge = (kind, text, meaning) =>
  el(
    `span.badge.${kind}`,
    { title: meaning },
    el("span", { "aria-hidden": "true" }, text),
    el("span.unseen", meaning),
  );
