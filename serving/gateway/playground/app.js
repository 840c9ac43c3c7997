// The page: asks the gateway what is served, then question by question.

import * as api from "./api.js";
import { answerView, emptyView, failureView, waitingView } from "./answer.js";
import { el, icon } from "./dom.js";
import { hitKeys } from "./hits.js";
import { ItemsSeen } from "./items_seen.js";
import { latencyPanel, stagesOf } from "./latency.js";
import { asksSomething, emptyQuestion, fromExample, fromLink, toLink, toRequest } from "./question.js";
import { fillForm } from "./question_form.js";
import { railPanels } from "./rail.js";
import { themeButton } from "./theme.js";
import * as words from "./words.js";

const at = (id) => document.getElementById(id);
const [form, answer, rail, announcer] = [at("question-form"), at("answer-body"), at("rail"), at("announcer")];

const items = new ItemsSeen();
const trips = []; // microseconds of the round trips so far
let info = {};
let gateway = null;
let question = emptyQuestion();
let controller = new AbortController();
let asking = ""; // the request under way
let hits = [];

async function start() {
  themeButton(at("theme-button"));
  setUpDialogs();
  document.addEventListener("keydown", onKey);
  window.addEventListener("popstate", () => openLink());
  await load();
}

/** Ask what is served, then the question of the link. */
async function load() {
  answer.replaceChildren(waitingView());
  try {
    await refresh();
  } catch (failure) {
    showFailure(failure, load);
    return;
  }
  openLink();
  if (!matchMedia("(pointer: coarse)").matches) at("search-box")?.focus();
}

async function refresh() {
  gateway = (await api.gateway()).body;
  info = await api.info();
  items.of(info);
  at("served").hidden = false;
  at("served").replaceChildren(
    el("strong", { dir: "auto" }, info.name || "unnamed"),
    el("code", { title: info.bundle_version ?? "" }, (info.bundle_version ?? "").slice(0, 12)),
    el("span", {}, words.plural(info.item_count, "item")),
  );
  document.title = `${info.name || "Twinspire"} · playground`;
  showRail();
}

function showRail(stages = null, both = false) {
  const open = new Map(
    [...rail.querySelectorAll("details.panel")].map((each) => [each.querySelector("h2").textContent, each.open]),
  );
  const panels = railPanels(info, gateway);
  for (const each of panels) {
    const before = open.get(each.querySelector("h2").textContent);
    if (before !== undefined) each.open = before;
  }
  const again = el(
    "button",
    { type: "button", class: "ghost", id: "refresh", on: { click: () => readAgain(stages, both) } },
    icon("refresh", 14),
    "Read the cards again",
  );
  rail.replaceChildren(...[stages && latencyPanel(stages, trips, both), ...panels, again].filter(Boolean));
}

function openLink() {
  question = fromLink(location.hash, info);
  if (!gateway?.compare) question.compare = false;
  showForm();
  if (asksSomething(question)) ask({ remember: false });
  else showEmpty();
}

function showForm() {
  fillForm(form, {
    question,
    info,
    items,
    canCompare: Boolean(gateway?.compare),
    ask: () => ask(),
    changed: () => asksSomething(question) && ask(),
    valuesSeen: (field) => [...new Set(hits.map((hit) => hit.fields?.[field]).filter(Boolean))].sort(),
  });
}

function showEmpty() {
  controller.abort();
  hits = [];
  announcer.textContent = "";
  const examples = Array.isArray(info.manifest?.examples) ? info.manifest.examples : [];
  answer.replaceChildren(
    emptyView(examples.map((each) => fromExample(each, info)).filter(asksSomething), items, (example) => {
      question = { ...example, compare: question.compare, k: question.k };
      showForm();
      ask();
    }),
  );
}

/** Ask the question as it stands; an older one that is under way is given up. */
async function ask({ remember = true } = {}) {
  if (!asksSomething(question)) {
    showEmpty();
    at("search-box")?.focus();
    return;
  }
  const request = toRequest(question, info);
  const both = question.compare && Boolean(gateway?.compare);
  const signature = JSON.stringify([both, request]);
  if (signature === asking) return;
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  asking = signature;
  if (remember && `#${toLink(question)}` !== location.hash)
    history.pushState(null, "", `#${toLink(question)}`);
  answer.setAttribute("aria-busy", "true");
  try {
    const answered = await (both ? askBoth(request, signal) : api.search(request, signal));
    if (!signal.aborted) showAnswer(answered);
  } catch (failure) {
    if (failure.name !== "AbortError") showFailure(failure, () => ask({ remember: false }));
  } finally {
    if (!signal.aborted) {
      asking = "";
      answer.removeAttribute("aria-busy");
    }
  }
}

/** The answers of champion and challenger; where the challenger alone fails, that of the champion. */
async function askBoth(request, signal) {
  try {
    return { ...(await api.compare(request, signal)), both: true };
  } catch (failure) {
    if (!failure.message.startsWith("challenger: ")) throw failure;
    return {
      ...(await api.search(request, signal)),
      notice: `There is nothing to compare with. ${failure.message}`,
    };
  }
}

function showAnswer({ body, milliseconds, both = false, notice = "" }) {
  const main = both ? body.champion : body;
  hits = both ? [...(body.champion.hits ?? []), ...(body.challenger.hits ?? [])] : (main.hits ?? []);
  items.add(hits);
  const stages = stagesOf(main.timing, milliseconds);
  if (!both) trips.push(milliseconds * 1000);
  const inside = answer.contains(document.activeElement);
  answer.replaceChildren(
    answerView(body, {
      both,
      notice,
      question,
      info,
      stages,
      similar,
      exclude,
      follow,
      clearFilters,
      request: toRequest(question, info),
    }),
  );
  if (inside) at("answer").querySelector(".hit")?.focus();
  showRail(stages, both);
  const number = main.hits?.length ?? 0;
  announcer.textContent = number
    ? `${words.plural(number, "hit")}. First: ${items.title(main.hits[0].id)}.`
    : "No hits.";
  if (main.bundle_version && info.bundle_version && main.bundle_version !== info.bundle_version)
    readAgain(stages, both);
}

/** Read the cards again, because another bundle answers than the one on show, or because it was asked for. */
async function readAgain(stages, both) {
  try {
    await refresh();
    showRail(stages, both);
  } catch {
    // What is on show stays; the next question tells what is wrong.
  }
}

function showFailure(failure, again) {
  if (!(failure instanceof api.Failure)) throw failure;
  hits = [];
  const said = words.failureInWords(failure);
  announcer.textContent = `${said.title}. ${failure.message}`;
  answer.replaceChildren(failureView(failure, said, { again, token: () => openToken(again) }));
}

function similar(id) {
  question = { ...question, mode: "item", item: id };
  showForm();
  ask();
}

function exclude(id) {
  if (!question.exclude.includes(id)) question.exclude = [...question.exclude, id];
  showForm();
  ask();
}

function follow(id) {
  question.history = [...question.history, id];
  showForm();
  ask();
}

function clearFilters() {
  question = { ...question, conditions: [], exclude: [] };
  showForm();
  ask();
}

let afterToken = load;

function openToken(again) {
  afterToken = again;
  at("token-dialog").showModal();
}

function setUpDialogs() {
  at("token-button").prepend(icon("key", 14));
  at("token-button").addEventListener("click", () =>
    openToken(info.bundle_version ? () => ask({ remember: false }) : load),
  );
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    closeToken(at("token-input").value);
  });
  at("token-forget").addEventListener("click", () => closeToken(""));
  at("token-cancel").addEventListener("click", () => at("token-dialog").close());
  at("shortcuts-button").addEventListener("click", () => at("shortcuts-dialog").showModal());
  at("shortcuts-close").addEventListener("click", () => at("shortcuts-dialog").close());
}

function closeToken(token) {
  api.setToken(token);
  at("token-input").value = "";
  at("token-dialog").close();
  at("token-button").dataset.set = String(api.hasToken());
  afterToken();
}

function onKey(event) {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (hitKeys(event, answer, at("search-box"))) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && !typing) at("search-box")?.focus();
  if (typing) return;
  if (event.key === "/") {
    event.preventDefault();
    at("search-box")?.focus();
    at("search-box")?.select?.();
  } else if (event.key === "?") {
    at("shortcuts-dialog").showModal();
  } else if (event.key === "c") {
    at("compare")?.click();
  }
}

start();
