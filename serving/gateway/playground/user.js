// A user: the answers without and with what is recorded, and the newest events with what each of them does.

import * as api from "./api.js";
import { comparisonView } from "./comparison.js";
import { el, fold } from "./dom.js";
import { isImage, shown } from "./hits.js";
import { towerInputs } from "./question.js";
import * as words from "./words.js";

const MOST = 20; // events on the page
const NAMES = [
  ["Without the user", "answer without the user"],
  ["With the user", "answer with the user"],
];

const USES = new Map([
  [1, ["rose", "in the history"]],
  [-1, ["fell", "excludes the item"]],
  [0, ["gone", "does not count"]],
]);

/** The answers without and with the user of a request, and the user's events, as `showAnswer` takes them. */
export async function askWithout(request, signal) {
  const { user, ...query } = request.query;
  const [{ body: champion }, { body: challenger, milliseconds }, events] = await Promise.all([
    api.search({ ...request, query }, signal),
    api.search(request, signal),
    api.events(user, MOST).catch((failure) => failure),
  ]);
  return {
    body: { champion, challenger },
    milliseconds,
    comparison: (body, page) => comparisonView(body, page, NAMES),
    events: (page) => eventsView(user, events, page),
  };
}

/**
 * The view of a user's events.
 * @param {string} user
 * @param {Object[]|Failure} events the newest first, or why they cannot be read.
 * @param {Object} page as of `hitList`.
 */
function eventsView(user, events, page) {
  const title = `Events of ${user}`;
  const isWide = matchMedia("(min-width: 640px)").matches;
  if (events instanceof Error) return fold(title, true, el("p.notice", { dir: "auto" }, events.message));
  if (!events.length) {
    return fold(title, isWide, el("p.hint", "None yet: record one with the buttons of a hit."));
  }
  const rows = events.map((event) => eventRow(event, page));
  const hint = events.length >= MOST && el("p.hint", `The newest ${MOST}.`);
  return fold(title, isWide, el("ol.events", { "aria-label": title }, rows), hint);
}

function eventRow(event, page) {
  const { item_id: id, type, value, time } = event;
  const fields = page.items.hits.get(id)?.fields ?? {};
  const title = page.items.title(id, fields);
  const others = page.items.names
    .map((name) => [name, fields[name]])
    .filter(([name, text]) => text && text !== title && !isImage(name, text, page));
  const found = use(event, page.info.manifest.dataset?.events ?? {});
  const isUnread = found === 1 && !towerInputs(page.info).history;
  const [kind, meaning] = isUnread ? ["gone", "the model reads no history"] : USES.get(found);
  return el(
    "li",
    el("span.event-type", { dir: "auto" }, type, value !== undefined && ` ${words.digits(value)}`),
    el("span.event-item", { dir: "auto" }, el("a", { href: `#view=items&find=${encodeURIComponent(id)}` }, title)),
    el("span.event-fields", { dir: "auto" }, others.map(([, text]) => el("span", shown(text, page)))),
    el("time", { datetime: moment(time), title: moment(time) }, words.ago(time)),
    el(`span.badge.${kind}`, meaning),
  );
}

/** When an event was, in ISO 8601; empty beyond what a date can hold. */
function moment(time) {
  const date = new Date(time * 1000);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

/** What an event does, as `EventTypes.use` says: 1 for the history, -1 excludes the item, 0 nothing. */
function use({ type, value }, { types = {}, has_label: hasLabel = false, positive_from: from = null }) {
  const found = Object.keys(types).length ? (Object.hasOwn(types, type) ? types[type] : 0) : 1;
  if (found !== 1 || value === undefined || !hasLabel) return found;
  return (from === null ? value > 0 : value >= from) ? 1 : -1;
}
