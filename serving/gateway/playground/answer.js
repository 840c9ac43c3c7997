// The answer's part of the page: hits or a comparison, nothing yet, nothing found, or what went wrong.

import { hasToken } from "./api.js";
import { comparisonView } from "./comparison.js";
import { copyButton, el, icon } from "./dom.js";
import { hitList, topScore } from "./hits.js";
import { onServer } from "./latency.js";
import { isExact } from "./rail.js";
import * as words from "./words.js";

const MAX_EXAMPLES = 6;

/**
 * An answer, or two side by side.
 * @param {Object} body a SearchResponse, or `{champion, challenger}` if `both`.
 * @param {Object} shown `{both, notice, question, info, stages, similar, exclude, follow, clearFilters, request}`
 */
export function answerView(body, shown) {
  const { both, notice, question, info, stages, similar, exclude, follow } = shown;
  const main = both ? body.champion : body;
  const hits = main.hits ?? [];
  const options = { info, similar, exclude, follow: question.mode === "history" ? follow : null };
  return el(
    "div",
    { class: "answer-view" },
    el(
      "header",
      { class: "answer-head" },
      el(
        "h2",
        {},
        both ? "Champion and challenger" : hits.length ? words.plural(hits.length, "hit") : "No hits",
      ),
      !both &&
        el("p", { class: "took" }, words.duration(onServer(stages)), el("span", {}, " in the service")),
      el(
        "span",
        { class: "answer-link" },
        copyButton(location.href, "Copy the link to this question", "Copy link"),
      ),
      el(
        "p",
        { class: "explained" },
        words.basisInWords(main.basis, question.mode),
        " ",
        words.planInWords(main.plan, isExact(info.manifest?.index)),
        " ",
        words.fusionInWords(main.fusion),
      ),
    ),
    notice && el("p", { class: "notice", dir: "auto" }, notice),
    Number(main.unknown_history) > 0 &&
      el(
        "p",
        { class: "notice" },
        `${words.plural(main.unknown_history, "item")} of the history ${Number(main.unknown_history) === 1 ? "is" : "are"} unknown to the model and skipped.`,
      ),
    both
      ? comparisonView(body, options)
      : hits.length
        ? hitList(hits, { ...options, top: topScore(hits), fusion: main.fusion, label: "Hits" })
        : nothingFound(main, shown),
    requestView(shown.request, body, both),
  );
}

function nothingFound(main, { question, clearFilters }) {
  const narrowed = question.conditions.length + question.exclude.length > 0;
  return el(
    "div",
    { class: "blank" },
    el("h3", {}, narrowed ? "Nothing passes" : "Nothing found"),
    el(
      "p",
      {},
      narrowed ? "No item is left after the filters and exclusions." : "Ask in other words, or by an item.",
    ),
    narrowed &&
      el(
        "button",
        { type: "button", class: "primary", id: "clear-filters", on: { click: clearFilters } },
        "Ask without filters",
      ),
  );
}

/** The request to repeat with curl, and the answer as it came. */
function requestView(request, body, both) {
  const path = new URL(both ? "v1/compare" : "v1/search", document.baseURI).href;
  const quoted = JSON.stringify(request).replaceAll("'", "'\\''");
  const token = hasToken() ? ' \\\n  -H "Authorization: Bearer $TOKEN"' : "";
  const command = `curl ${path}${token} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
  const json = JSON.stringify(body, null, 2);
  return el(
    "div",
    { class: "raw" },
    el(
      "details",
      {},
      el("summary", {}, "The same with curl"),
      el(
        "div",
        { class: "code" },
        copyButton(command, "Copy the command"),
        el("pre", { tabindex: 0 }, command),
      ),
    ),
    el(
      "details",
      {},
      el("summary", {}, "The answer as JSON"),
      el("div", { class: "code" }, copyButton(json, "Copy the answer"), el("pre", { tabindex: 0 }, json)),
    ),
  );
}

/** Before the first question: what can be asked. */
export function emptyView(examples, items, choose) {
  const shown = examples.slice(0, MAX_EXAMPLES);
  return el(
    "div",
    { class: "blank" },
    el("h2", {}, "Ask the two towers"),
    el(
      "p",
      {},
      "The query tower turns the question into a vector; the answer is the items whose vectors are nearest, " +
        "and of a hybrid bundle those whose words fit as well.",
    ),
    shown.length > 0 && [
      el("h3", {}, "Examples of the bundle"),
      el(
        "ul",
        { class: "examples" },
        shown.map((example) =>
          el(
            "li",
            {},
            el(
              "button",
              { type: "button", dir: "auto", on: { click: () => choose(example) } },
              inWords(example, items),
            ),
          ),
        ),
      ),
    ],
    el(
      "p",
      { class: "hint" },
      "Press ",
      el("kbd", {}, "/"),
      " to go to the search box, ",
      el("kbd", {}, "?"),
      " for all keys.",
    ),
  );
}

function inWords({ text, history, features }, items) {
  const parts = [
    text,
    history.length
      ? `after ${history
          .slice(-3)
          .map((id) => items.title(id))
          .join(", ")}`
      : "",
    ...Object.entries(features).map(([name, value]) => `${name}: ${[value].flat().join(", ")}`),
  ];
  return parts.filter(Boolean).join(" · ");
}

/** While the first answer is awaited. */
export function waitingView() {
  return el(
    "div",
    { class: "waiting", role: "status", "aria-label": "Asking the service" },
    Array.from({ length: 4 }, () => el("span", {})),
  );
}

/** A text whose parts in backticks are code. */
function withCode(text) {
  return text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));
}

/**
 * A failure, with what to do.
 * @param {Object} said of `failureInWords`.
 * @param {{again: function(), token: function()}} actions
 */
export function failureView(failure, said, { again, token }) {
  return el(
    "div",
    { class: "failure", role: "alert" },
    icon("warning", 22),
    el(
      "div",
      {},
      el("h2", {}, said.title),
      el("p", {}, withCode(said.advice)),
      failure.message &&
        el(
          "p",
          { class: "failure-message" },
          el("code", {}, failure.code),
          " ",
          el("span", { dir: "auto" }, failure.message),
        ),
      el(
        "div",
        { class: "failure-actions" },
        said.action === "token" &&
          el(
            "button",
            { type: "button", class: "primary", id: "enter-token", on: { click: token } },
            "Enter a token",
          ),
        said.action &&
          el(
            "button",
            { type: "button", class: "secondary", id: "retry", on: { click: again } },
            "Ask again",
          ),
      ),
    ),
  );
}
