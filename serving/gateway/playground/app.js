// The page: asks the gateway what is served, then shows one of its parts: search, items or service.

import * as api from "./api.js";
import { answerView, emptyView, failureView, waitingView } from "./answer.js";
import { at, button, el } from "./dom.js";
import { field } from "./field.js";
import { fillForm } from "./form.js";
import { hitKeys } from "./hits.js";
import { ItemsSeen } from "./items_seen.js";
import { stagesOf } from "./latency.js";
import { wordsOf } from "./marks.js";
import { asksSomething, emptyQuestion, fromExample, fromLink, toLink, toRequest } from "./question.js";
import { themeButton } from "./theme.js";
import * as words from "./words.js";

const VIEWS = ["search", "items", "service"];

const trips = []; // microseconds of the round trips so far
let items = new ItemsSeen();
let info = { manifest: {} };
const others = new Set(); // bundles that answer beside the one on show
let gateway = {};
let question = emptyQuestion();
let controller = new AbortController();
let asking = ""; // the request under way
let hits = [];
let mayWrite = false;

const show = (...content) => at("answer").replaceChildren(...content);
const isWide = matchMedia("(min-width: 640px)").matches;
const wantsKeyboard = !matchMedia("(pointer: coarse)").matches;

async function start() {
  themeButton(at("theme-button"));
  at("more").open = isWide;
  setUpDialogs();
  document.addEventListener("keydown", onKey);
  window.addEventListener("popstate", openLink);
  const find = { id: "find", type: "search", placeholder: "Id of an item, or words", dir: "auto" };
  const suggest = (text) => items.suggest(text);
  const label = "Find items by id or words";
  at("find-box").append(
    field({ label, shown: false, multiple: false, values: [], suggest, input: find, onChange() {} }),
  );
  at("find-form").onsubmit = (event) => {
    event.preventDefault();
    openItem(at("find").value.trim());
  };
  await load();
}

/** Ask what is served, then show the part of the page and the question of the link. */
async function load() {
  show(waitingView());
  try {
    await refresh();
  } catch (failure) {
    showFailure(failure, load);
    return;
  }
  await openLink();
  if (wantsKeyboard) at("search-box")?.focus();
}

async function refresh() {
  gateway = await api.gateway();
  const before = info.bundle_version;
  info = await api.info();
  if (info.bundle_version !== before) {
    items = new ItemsSeen(info, gateway.image_field);
    others.clear();
  }
  const { catalogue, tokens, client_certificates: certificates } = info.state ?? {};
  mayWrite = Boolean(catalogue) && (!(tokens || certificates) || (await api.mayWrite()));
  at("served").hidden = false;
  at("served").replaceChildren(
    el("strong", { dir: "auto" }, info.name),
    el("code", { title: info.bundle_version }, info.bundle_version.slice(0, 12)),
    el("span", words.plural(info.item_count, "item")),
  );
  document.title = `${info.name} · playground`;
}

async function showService() {
  const { serviceCards } = await import("./service.js");
  const again = () =>
    refresh().then(showService, (failure) => at("service-view").prepend(failureView(failure)));
  at("service-view").replaceChildren(
    ...serviceCards(info, gateway, isWide),
    button("secondary", "Read the cards again", again, { id: "refresh" }),
  );
}

/** What hits and items need of the page, as of `hitList`; `user` is the one whose events they record. */
const context = (user) => ({
  info,
  items,
  mayWrite,
  refresh,
  imageField: gateway.image_field,
  marks: wordsOf(question.mode === "item" ? "" : question.text),
  open: openItem,
  similar: (id) => askFor({ mode: "item", item: id }),
  exclude: (id) => askFor({ exclude: [...new Set([...question.exclude, id])] }),
  follow: question.mode === "history" ? (id) => askFor({ history: [...question.history, id] }) : null,
  record: user ? (event) => record({ user, ...event }) : null,
  types: [...new Set(["click", ...Object.keys(info.manifest.dataset?.events?.types ?? {})])],
});

/** Record an event, then ask again, also what is under way: the answer may be another one now. */
async function record(event) {
  try {
    await api.record(event);
    asking = "";
    await ask({ remember: false });
  } catch (failure) {
    at("answer").prepend(failureView(failure));
  }
}

function openItem(id) {
  history.pushState(null, "", `#view=items&find=${encodeURIComponent(id)}`);
  openLink();
}

async function openLink() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const view = VIEWS.includes(parts.get("view")) ? parts.get("view") : "search";
  for (const each of VIEWS) {
    at(`${each}-view`).hidden = each !== view;
    at(`${each}-tab`).setAttribute("aria-current", each === view ? "page" : "false");
  }
  if (view === "service") await showService();
  if (view === "items") (await import("./items_view.js")).showItems(parts.get("find") ?? "", context(question.user));
  if (view !== "search") return;
  question = fromLink(location.hash, info);
  question.compare &&= gateway.compare;
  showForm();
  if (asksSomething(question)) ask({ remember: false });
  else showEmpty();
}

/** Ask the question with some changes. */
function askFor(changes) {
  question = { ...question, ...changes };
  showForm();
  ask();
}

function showForm() {
  fillForm({
    question,
    info,
    items,
    canCompare: gateway.compare,
    ask,
    changed: () => asksSomething(question) && ask(),
    valuesSeen: (field) => [...new Set(hits.map((hit) => hit.fields[field]).filter(Boolean))].sort(),
  });
}

function showEmpty() {
  controller.abort();
  hits = [];
  at("announcer").textContent = "";
  const examples = (info.manifest.examples ?? [])
    .map((each) => fromExample(each, info))
    .filter(asksSomething);
  show(
    emptyView(examples, items, (example) => askFor({ ...example, compare: question.compare, k: question.k, user: question.user })),
  );
}

/** Ask the question as it stands; an older one that is under way is given up. */
async function ask({ remember = true } = {}) {
  if (!asksSomething(question)) {
    showEmpty();
    at("search-box")?.focus();
    return;
  }
  const link = `#${toLink(question)}`;
  if (remember && (link !== location.hash || at("search-view").hidden)) history.pushState(null, "", link);
  if (at("search-view").hidden) {
    openLink();
    return;
  }
  at("search-tab").href = link;
  const request = toRequest(question, info);
  const signature = JSON.stringify([question.compare, request]);
  if (signature === asking) return;
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  asking = signature;
  at("answer").setAttribute("aria-busy", "true");
  try {
    const { compare, user } = question;
    const ask = compare ? askBoth : user ? (await import("./user.js")).askWithout : api.search;
    const answered = await ask(request, signal);
    if (!signal.aborted) showAnswer(answered, request);
  } catch (failure) {
    if (failure.name !== "AbortError") showFailure(failure, () => ask({ remember: false }));
  } finally {
    if (!signal.aborted) {
      asking = "";
      at("answer").removeAttribute("aria-busy");
    }
  }
}

/** The answers of champion and challenger; where the challenger alone fails, that of the champion. */
async function askBoth(request, signal) {
  try {
    const answered = await api.search(request, signal, "v1/compare");
    return { ...answered, comparison: (await import("./comparison.js")).comparisonView };
  } catch (failure) {
    if (!failure.message.startsWith("challenger: ")) throw failure;
    const notice = `There is nothing to compare with. ${failure.message}`;
    return { ...(await api.search(request, signal)), notice };
  }
}

function showAnswer({ body, milliseconds, comparison, events, notice }, request) {
  const main = events ? body.challenger : comparison ? body.champion : body;
  hits = comparison ? [...body.champion.hits, ...body.challenger.hits] : main.hits;
  items.add(hits);
  if (!comparison) trips.push(milliseconds * 1000);
  const stages = stagesOf(main.timing, milliseconds);
  const clearFilters = () => askFor({ conditions: [], exclude: [] });
  const isInside = at("answer").contains(document.activeElement);
  const shown = { main, comparison, events, notice, question, request, stages, trips, clearFilters };
  show(answerView(body, shown, context(request.query.user)));
  if (isInside) at("answer").querySelector(".hit")?.focus();
  const [first] = main.hits;
  at("announcer").textContent = first
    ? `${words.plural(main.hits.length, "hit")}. First: ${items.title(first.id)}.`
    : "No hits.";
  // Another bundle answers than the one on show; if it cannot be read, the next question says why.
  const other = main.bundle_version;
  if (other === info.bundle_version || others.has(other)) return;
  others.add(other);
  refresh().catch(() => others.delete(other));
}

function showFailure(failure, repeat) {
  if (!(failure instanceof api.Failure)) throw failure;
  hits = [];
  show(failureView(failure, repeat));
}

function setUpDialogs() {
  at("token-button").onclick = () => at("token-dialog").showModal();
  at("token-form").onsubmit = (event) => {
    event.preventDefault();
    closeToken(at("token-input").value);
  };
  at("token-forget").onclick = () => closeToken("");
  at("token-cancel").onclick = () => at("token-dialog").close();
  at("shortcuts-button").onclick = () => at("shortcuts-dialog").showModal();
  at("shortcuts-close").onclick = () => at("shortcuts-dialog").close();
}

function closeToken(token) {
  api.setToken(token);
  at("token-input").value = "";
  at("token-dialog").close();
  at("token-button").dataset.set = api.hasToken();
  load();
}

function onKey(event) {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const [box, view] = at("search-view").hidden ? [at("find"), at("found")] : [at("search-box"), at("answer")];
  if (hitKeys(event, view, box)) return;
  const isTyping = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && !isTyping) box?.focus();
  if (isTyping) return;
  if (event.key === "/") {
    event.preventDefault();
    box?.focus();
    box?.select?.();
  } else if (event.key === "?") {
    at("shortcuts-dialog").showModal();
  } else if (event.key === "c") {
    at("compare").click();
  }
}

start();
