// The answer's part of the page: hits or a comparison, nothing yet, nothing found, or what went wrong.

import { hasToken } from "./api.js";
import { at, button, copyButton, copyOf, el, fold } from "./dom.js";
import { hitList, topScore } from "./hits.js";
import { latencyFold } from "./latency.js";
import * as words from "./words.js";

const MAX_EXAMPLES = 6;

/**
 * An answer, or two side by side.
 * @param {Object} body a SearchResponse, or `{champion, challenger}`.
 * @param {Object} shown `{main, comparison, events, notice, question, request, stages, trips, clearFilters}`: `main` is
 *   the answer that the head describes, `comparison` a function from both answers to their view, if there are two,
 *   and `events` one to the view of a user's events, if these are the answers without and with the user.
 * @param {Object} page as of `hitList`.
 */
export function answerView(body, shown, page) {
  const { main = body, comparison, events, notice, question, request } = shown;
  const both = Boolean(comparison);
  const { hits } = main;
  const unknown = Number(main.unknown_history);
  return el(
    "div.answer-view",
    el(
      "header.answer-head",
      el("h2", titleOf(both, events, hits)),
      latencyFold(shown.stages, shown.trips, both && !events),
      copyButton(location.href, "Copy the link to this question", "Copy link"),
      el(
        "p.explained",
        [
          words.basisInWords(main.basis, question.mode),
          words.planInWords(main.plan, page.info.manifest.index?.exact),
          words.fusionInWords(main.fusion),
        ].join(" "),
      ),
    ),
    main.weak && el("p.weak", "Nothing matches this question well; these are only the nearest items."),
    main.explored && el("p.notice", "Explored: the order of the best items was drawn by chance."),
    notice && el("p.notice", { dir: "auto" }, notice),
    unknown > 0 &&
      el(
        "p.notice",
        `${words.plural(unknown, "item")} of the history ${unknown === 1 ? "is" : "are"} unknown to the model and skipped.`,
      ),
    events?.(page),
    comparison?.(body, page),
    !both &&
      hits.length > 0 &&
      hitList(hits, page, { label: "Hits", top: fullScore(main, page), fusion: main.fusion }),
    !hits.length && (!both || events) && nothingFound(shown),
    requestView(request, events ? main : body, both && !events),
  );
}

function titleOf(both, events, hits) {
  if (both) return events ? "Without and with the user" : "Champion and challenger";
  return hits.length ? words.plural(hits.length, "hit") : "No hits";
}

/** The score whose bar is full: that of good answers where the service knows it, else the best. */
function fullScore({ hits, basis = "BASIS_QUERY", bundle_version: version }, { info }) {
  const bundle = info.state?.bundles?.find((each) => each.bundle_version === version);
  const reference = basis === "BASIS_QUERY" && bundle?.score_reference;
  return reference > 0 ? reference : topScore(hits);
}

function nothingFound({ question, clearFilters }) {
  const narrowed = question.conditions.length + question.exclude.length > 0;
  return el(
    "div.blank",
    el("h3", narrowed ? "Nothing passes" : "Nothing found"),
    el(
      "p",
      narrowed ? "No item is left after the filters and exclusions." : "Ask in other words, or by an item.",
    ),
    narrowed && button("primary", "Ask without filters", clearFilters, { id: "clear-filters" }),
  );
}

/** The request to repeat with curl, and the answer as it came. */
function requestView(request, body, both) {
  const path = new URL(both ? "v1/compare" : "v1/search", document.baseURI).href;
  const quoted = JSON.stringify(request).replaceAll("'", "'\\''");
  const token = hasToken() ? ' \\\n  -H "Authorization: Bearer $TOKEN"' : "";
  const command = `curl ${path}${token} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
  const raw = (title, text) =>
    fold(title, false, el("div.code", copyButton(text, `Copy: ${title}`), el("pre", { tabindex: 0 }, text)));
  return el(
    "div.raw",
    raw("The same with curl", command),
    raw("The answer as JSON", JSON.stringify(body, null, 2)),
  );
}

/** Before the first question: what can be asked. `choose` gets one of the questions in `examples`. */
export function emptyView(examples, items, choose) {
  const inWords = ({ text, history, features }) =>
    [
      text,
      history.length > 0 &&
        `after ${history
          .slice(-3)
          .map((id) => items.title(id))
          .join(", ")}`,
      ...Object.entries(features).map(([name, value]) => `${name}: ${[value].flat().join(", ")}`),
    ]
      .filter(Boolean)
      .join(" · ");
  const view = copyOf("no-question");
  const shown = examples.slice(0, MAX_EXAMPLES).map((each) =>
    el(
      "li",
      { dir: "auto" },
      button("example", inWords(each), () => choose(each)),
    ),
  );
  view.querySelector(".examples").replaceChildren(...shown);
  return view;
}

/** While the first answer is awaited. */
export const waitingView = () =>
  el(
    "div.waiting",
    { role: "status", "aria-label": "Asking the service" },
    el("span"),
    el("span"),
    el("span"),
  );

/** An error with what to do about it; `again` asks once more. */
export function failureView(failure, again = null) {
  const { message, retryAfter } = failure;
  const code = typeof failure.code === "string" ? failure.code : "FAILED";
  const known = copyOf(code) ?? copyOf(code.startsWith("WRITE_") ? "NOT_WRITTEN" : "FAILED");
  const { action } = known.dataset;
  if (retryAfter) known.lastElementChild.textContent = `Ask again in ${words.seconds(retryAfter)}.`;
  known.append(
    el("p.failure-message", el("code", code), " ", el("span", { dir: "auto" }, message)),
    el(
      "div.failure-actions",
      action === "token" &&
        button("primary", "Enter a token", () => at("token-button").onclick(), { id: "enter-token" }),
      action && again && button("secondary", "Ask again", again, { id: "retry" }),
    ),
  );
  known.className = "failure";
  known.role = "alert";
  return known;
}
