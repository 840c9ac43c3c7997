// The question: what the page can ask, the request made of it, and the link that says it again.

import { toFilter, toMoment } from "./filters.js";

export const MODES = ["text", "history", "item"];

/** A question that asks nothing. */
export function emptyQuestion() {
  return {
    mode: "text",
    text: "",
    history: [],
    features: {}, // of the query tower, by name: a text, or a list of texts
    item: "",
    k: 0, // the service's default
    exclude: [],
    excludeHistory: null, // as the bundle was evaluated, or true or false
    match: "all",
    conditions: [], // {field, operator, values}
    compare: false,
  };
}

/** Whether there is something to ask. A tower with other features can answer without a text or history. */
export function asksSomething(question) {
  if (question.mode === "item") return question.item !== "";
  if (question.mode === "history" && question.history.length) return true;
  return question.text.trim() !== "" || Object.values(question.features).some((value) => value.length > 0);
}

/**
 * What the query tower reads, from `Info`.
 * @returns {{text: string|null, history: string|null, others: Array<{name, kind, multi}>}} names of the features.
 */
export function towerInputs(info) {
  const kinds = Object.entries(info.query_features ?? {});
  const specs = info.manifest?.schema?.query ?? {};
  const main = (kind) => {
    const names = kinds.filter(([, each]) => each === kind).map(([name]) => name);
    return names.includes(kind) ? kind : (names[0] ?? null);
  };
  const text = main("text");
  const history = main("history");
  const others = kinds
    .filter(([name]) => name !== text && name !== history)
    .map(([name, kind]) => ({ name, kind, multi: kind === "history" || Boolean(specs[name]?.multi) }));
  return { text, history, others };
}

/** Whether the bundle was evaluated with answers that leave out the history; `Manifest.excludes_history`. */
export function excludesHistory(info) {
  return info.manifest?.dataset?.repeats === "first";
}

/** The `SearchRequest` of a question, in the protobuf JSON mapping. */
export function toRequest(question, info) {
  const inputs = towerInputs(info);
  const request = { query: toQuery(question, inputs) };
  if (question.k) request.k = question.k;
  if (question.exclude.length) request.exclude = question.exclude;
  if (question.mode === "history" && question.excludeHistory !== null) {
    request.exclude_history = question.excludeHistory;
  }
  const filter = toFilter(question.conditions, info.filter_fields ?? {}, question.match);
  if (filter) request.filter = filter;
  return request;
}

function toQuery(question, inputs) {
  if (question.mode === "item") return { item_id: question.item };
  const features = {};
  if (question.text.trim() && inputs.text) features[inputs.text] = { text: question.text };
  if (question.mode === "history" && question.history.length && inputs.history) {
    features[inputs.history] = { strings: { values: question.history } };
  }
  for (const { name, kind, multi } of inputs.others) {
    const value = question.features[name];
    if (!value?.length) continue;
    if (multi) features[name] = { strings: { values: value } };
    else features[name] = toValue(kind, value);
  }
  // The fields of `Query` fill the features of these names; others are given by name.
  const query = {};
  if (inputs.text === "text" && features.text) {
    query.text = features.text.text;
    delete features.text;
  }
  if (inputs.history === "history" && features.history) {
    query.history = features.history.strings.values;
    delete features.history;
  }
  if (Object.keys(features).length) query.features = features;
  return query;
}

/** A single value; what is no number or time goes as it is: the service says what it expects. */
function toValue(kind, value) {
  const isDate = kind === "time" && !/^\d{5,}(\.\d+)?$/.test(value.trim()); // a year is a date, too
  const seconds = isDate ? toMoment(value.trim()).getTime() / 1000 : Number(value);
  return ["number", "time"].includes(kind) && Number.isFinite(seconds) ? { number: seconds } : { text: value };
}

/** The question as the part of a link after "#", which browsers do not send to servers. */
export function toLink(question) {
  const parts = new URLSearchParams();
  if (question.mode === "item") parts.set("item", question.item);
  if (question.mode !== "item" && question.text) parts.set("text", question.text);
  if (question.mode === "history") {
    for (const id of question.history.length ? question.history : [""]) parts.append("history", id);
    if (question.excludeHistory !== null) parts.set("repeat", question.excludeHistory ? "0" : "1");
  }
  for (const [name, value] of Object.entries(question.features)) {
    for (const each of [value].flat()) if (each) parts.append(`feature.${name}`, each);
  }
  if (question.k) parts.set("k", question.k);
  for (const id of question.exclude) parts.append("exclude", id);
  for (const { field, operator, values } of question.conditions) {
    parts.append("where", JSON.stringify([field, operator, ...values]));
  }
  if (question.match === "any") parts.set("match", "any");
  if (question.compare) parts.set("compare", "1");
  return parts.toString();
}

/** The question of a link; what it does not understand is left out. */
export function fromLink(link, info) {
  const parts = new URLSearchParams(link.replace(/^#/, ""));
  const question = emptyQuestion();
  const { others } = towerInputs(info);
  if (parts.has("item")) question.mode = "item";
  else if (parts.has("history")) question.mode = "history";
  else question.mode = firstMode(info);
  question.item = parts.get("item") ?? "";
  question.text = parts.get("text") ?? "";
  question.history = parts.getAll("history").filter(Boolean);
  question.excludeHistory = parts.has("repeat") ? parts.get("repeat") === "0" : null;
  for (const { name, multi } of others) {
    const given = parts.getAll(`feature.${name}`);
    if (given.length) question.features[name] = multi ? given : given[0];
  }
  const most = info.limits?.max_k || Infinity;
  question.k = Math.min(Math.max(0, Math.trunc(Number(parts.get("k")) || 0)), most);
  question.exclude = parts.getAll("exclude");
  question.conditions = parts.getAll("where").map(toCondition).filter(Boolean);
  question.match = parts.get("match") === "any" ? "any" : "all";
  question.compare = parts.has("compare");
  return question;
}

/** The mode that a page begins with: the first that the query tower takes. */
export function firstMode(info) {
  const inputs = towerInputs(info);
  if (inputs.history && !inputs.text) return "history";
  return inputs.text || inputs.others.length ? "text" : "item";
}

function toCondition(text) {
  try {
    const [field, operator, ...values] = JSON.parse(text);
    const fits = [field, operator, ...values].every((each) => typeof each === "string");
    return fits ? { field, operator, values } : null;
  } catch {
    return null;
  }
}

/** One of the manifest's examples, feature name -> raw value, as a question. */
export function fromExample(example, info) {
  const inputs = towerInputs(info);
  const question = emptyQuestion();
  question.text = inputs.text ? String(example[inputs.text] ?? "") : "";
  const events = inputs.history ? [...(example[inputs.history] ?? [])] : [];
  question.history = events.map((event) => String(Array.isArray(event) ? event[0] : event)); // without times
  question.mode = question.history.length ? "history" : firstMode(info);
  for (const { name, multi } of inputs.others) {
    const value = example[name];
    if (value === null || value === undefined) continue;
    question.features[name] = multi ? [value].flat().map(String) : String(value);
  }
  return question;
}
