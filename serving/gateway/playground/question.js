// The question: what the page can ask, the request made of it, and the link that says it again.

import { toFilter, toMoment } from "./filters.js";

/** A question that asks nothing. */
export const emptyQuestion = () => ({
  mode: "text",
  text: "",
  history: [],
  features: {}, // of the query tower, by name: a text, or a list of texts
  item: "",
  user: "", // the key of a user with recorded events
  k: 0, // the service's default
  exclude: [],
  excludeHistory: null, // as the bundle was evaluated, or true or false
  match: "all",
  conditions: [], // {field, operator, values}
  compare: false,
});

/** Whether there is something to ask. A tower with other features can answer without a text or history. */
export function asksSomething({ mode, item, history, text, user, features }) {
  if (mode === "item") return item !== "";
  const values = [text.trim(), ...(mode === "history" ? [history, user] : []), ...Object.values(features)];
  return values.some((value) => value.length > 0);
}

/**
 * What the query tower reads, from `Info`: the names of its text and its history, null where it has none, and
 * `others`, `{name, kind, multi}` of its other features.
 */
export function towerInputs(info) {
  const kinds = info.query_features ?? {};
  const main = (kind) =>
    kinds[kind] === kind ? kind : (Object.keys(kinds).find((name) => kinds[name] === kind) ?? null);
  const [text, history] = [main("text"), main("history")];
  const others = Object.entries(kinds)
    .filter(([name]) => name !== text && name !== history)
    .map(([name, kind]) => ({
      name,
      kind,
      multi: kind === "history" || Boolean(info.manifest?.schema?.query?.[name]?.multi),
    }));
  return { text, history, others };
}

/** The modes in which a bundle can be asked; a page begins with the first. */
export function modesOf(info) {
  const { text, history, others } = towerInputs(info);
  const asksText = text || (others.length && !history);
  return [asksText && "text", history && "history", "item"].filter(Boolean);
}

/** Whether a question can have a history: its own, or that of its user. */
export const hasHistory = ({ mode, user }) => mode === "history" || user !== "";

/** Whether the bundle was evaluated with answers that leave out the history; `Manifest.excludes_history`. */
export const excludesHistory = (info) => info.manifest?.dataset?.repeats === "first";

/** The `Query` of a text alone; null where the query tower takes none. */
export function textQuery(text, info) {
  const name = towerInputs(info).text;
  if (!name) return null;
  return name === "text" ? { text } : { features: { [name]: { text } } };
}

/** The `SearchRequest` of a question, in the protobuf JSON mapping. */
export function toRequest(question, info) {
  const request = { query: toQuery(question, info) };
  if (question.user) request.query.user = question.user;
  if (question.k) request.k = question.k;
  if (question.exclude.length) request.exclude = question.exclude;
  if (hasHistory(question) && question.excludeHistory !== null) {
    request.exclude_history = question.excludeHistory;
  }
  const filter = toFilter(question.conditions, info.filter_fields ?? {}, question.match);
  return filter ? { ...request, filter } : request;
}

function toQuery(question, info) {
  if (question.mode === "item") return { item_id: question.item };
  const inputs = towerInputs(info);
  const query = { ...(question.text.trim() && textQuery(question.text, info)) };
  const features = { ...query.features };
  if (question.mode === "history" && question.history.length && inputs.history) {
    // The field of `Query` fills the feature of this name; another is given by its name.
    if (inputs.history === "history") query.history = question.history;
    else features[inputs.history] = { strings: { values: question.history } };
  }
  for (const { name, kind, multi } of inputs.others) {
    const value = question.features[name];
    if (value?.length) features[name] = multi ? { strings: { values: value } } : toValue(kind, value);
  }
  return Object.keys(features).length ? { ...query, features } : query;
}

/** A single value; what is no number or time goes as it is: the service says what it expects. */
function toValue(kind, value) {
  const isDate = kind === "time" && !/^\d{5,}(\.\d+)?$/.test(value.trim()); // a year is a date, too
  const number = isDate ? toMoment(value.trim()).getTime() / 1000 : Number(value);
  return ["number", "time"].includes(kind) && Number.isFinite(number) ? { number } : { text: value };
}

/** The question as the part of a link after "#", which browsers do not send to servers. */
export function toLink(question) {
  const parts = new URLSearchParams();
  const append = (name, values) => values.forEach((value) => parts.append(name, value));
  if (question.mode === "item") parts.set("item", question.item);
  else if (question.text) parts.set("text", question.text);
  if (question.mode === "history") {
    append("history", question.history.length ? question.history : [""]);
  }
  if (question.user) parts.set("user", question.user);
  if (hasHistory(question) && question.excludeHistory !== null) {
    parts.set("repeat", question.excludeHistory ? "0" : "1");
  }
  for (const [name, value] of Object.entries(question.features)) {
    append(`feature.${name}`, [value].flat().filter(Boolean));
  }
  if (question.k) parts.set("k", question.k);
  append("exclude", question.exclude);
  append(
    "where",
    question.conditions.map(({ field, operator, values }) => JSON.stringify([field, operator, ...values])),
  );
  if (question.match === "any") parts.set("match", "any");
  if (question.compare) parts.set("compare", "1");
  return parts.toString();
}

/** The question of a link; what it does not understand is left out. */
export function fromLink(link, info) {
  const parts = new URLSearchParams(link.replace(/^#/, ""));
  const features = {};
  for (const { name, multi } of towerInputs(info).others) {
    const given = parts.getAll(`feature.${name}`);
    if (given.length) features[name] = multi ? given : given[0];
  }
  const asked = ["item", "history"].find((name) => parts.has(name));
  return {
    mode: asked ?? modesOf(info)[0],
    text: parts.get("text") ?? "",
    history: parts.getAll("history").filter(Boolean),
    features,
    item: parts.get("item") ?? "",
    user: (info.state?.events && parts.get("user")) || "",
    k: Math.min(Math.max(0, Math.trunc(Number(parts.get("k")) || 0)), info.limits?.max_k || Infinity),
    exclude: parts.getAll("exclude"),
    excludeHistory: parts.has("repeat") ? parts.get("repeat") === "0" : null,
    match: parts.get("match") === "any" ? "any" : "all",
    conditions: parts.getAll("where").map(toCondition).filter(Boolean),
    compare: parts.has("compare"),
  };
}

function toCondition(text) {
  try {
    const [field, operator, ...values] = JSON.parse(text);
    return (
      [field, operator, ...values].every((each) => typeof each === "string") && { field, operator, values }
    );
  } catch {
    return null;
  }
}

/** One of the manifest's examples, feature name -> raw value, as a question. */
export function fromExample(example, info) {
  const inputs = towerInputs(info);
  const question = emptyQuestion();
  question.text = String(example[inputs.text] ?? "");
  question.history = (example[inputs.history] ?? []).map((event) => String([event].flat()[0])); // without times
  question.mode = question.history.length ? "history" : modesOf(info)[0];
  for (const { name, multi } of inputs.others) {
    const value = example[name] ?? null;
    if (value !== null) question.features[name] = multi ? [value].flat().map(String) : String(value);
  }
  return question;
}
