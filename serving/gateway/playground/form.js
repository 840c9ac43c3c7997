// The form of the question: what is asked, how many items, which are left out, and the filters.

import { at, el } from "./dom.js";
import { field } from "./field.js";
import { excludesHistory, hasHistory, modesOf, towerInputs } from "./question.js";
import { count } from "./words.js";

/**
 * Fill the form with a question.
 * @param {Object} page `{question, info, items, canCompare, ask, changed, valuesSeen}`: `changed()` is called after a
 *   change that can be asked at once, `ask()` by the button; `valuesSeen(field)` are those of the answers so far.
 */
export function fillForm(page) {
  const { question, info, items } = page;
  const modes = modesOf(info);
  if (!modes.includes(question.mode)) question.mode = modes[0];
  at("question-form").onsubmit = (event) => {
    event.preventDefault();
    page.ask();
  };
  for (const radio of document.getElementsByName("mode")) {
    radio.checked = radio.value === question.mode;
    radio.parentElement.hidden = !modes.includes(radio.value);
    radio.onchange = () => {
      question.mode = radio.value;
      fillForm(page);
    };
    radio.onclick = (event) => event.detail && at("search-box")?.focus(); // arrow keys go on through the modes
  }
  at("main-input").replaceChildren(mainField(page));
  at("features").replaceChildren(...featureFields(page));
  const k = at("k");
  k.max = info.limits?.max_k || 1000;
  k.placeholder = info.limits?.default_k || 10;
  k.value = question.k || "";
  k.onchange = () => {
    if (!k.reportValidity()) return;
    question.k = Number(k.value);
    page.changed();
  };
  const exclude = {
    label: "Exclude",
    values: question.exclude,
    suggest: (text) => items.suggest(text),
    name: (id) => items.title(id),
    input: { placeholder: "an id" },
    onChange: (values) => set(page, "exclude", values),
  };
  at("exclude").replaceChildren(field(exclude));
  const showExclusion = () => {
    const excludes = question.excludeHistory ?? excludesHistory(info);
    toggle("exclude-history", hasHistory(question), excludes, (on) => set(page, "excludeHistory", on));
  };
  const user = {
    label: "User",
    multiple: false,
    values: [question.user],
    input: { id: "user-key", placeholder: "a key", maxlength: 256 },
    onChange: ([value = ""], typing) => {
      question.user = value;
      showExclusion();
      if (!typing) page.changed();
    },
  };
  at("user").replaceChildren(...(info.state?.events ? [field(user)] : []));
  showExclusion();
  toggle("compare", page.canCompare, question.compare, (on) => set(page, "compare", on));
  at("add-condition").hidden = !Object.keys(info.filter_fields ?? {}).length;
  at("add-condition").onclick = async () => (await import("./conditions.js")).addCondition(page);
  at("filters").hidden = !question.conditions.length;
  if (question.conditions.length) import("./conditions.js").then(({ fillConditions }) => fillConditions(page));
}

function set(page, name, value) {
  page.question[name] = value;
  page.changed();
}

function toggle(id, shown, checked, onChange) {
  const input = at(id);
  input.parentElement.hidden = !shown;
  input.checked = checked;
  input.onchange = () => onChange(input.checked);
}

function mainField(page) {
  const { question, info, items } = page;
  const isHistory = question.mode === "history";
  if (isHistory || question.mode === "item") {
    return field({
      label: isHistory ? "History" : "Item",
      shown: false,
      multiple: isHistory,
      values: isHistory ? question.history : [question.item].filter(Boolean),
      suggest: (text) => items.suggest(text),
      name: (id) => items.title(id),
      input: { id: "search-box", placeholder: isHistory ? "Ids of items, oldest first" : "Id of an item" },
      onChange: (values, typing) => {
        if (isHistory) question.history = values;
        else question.item = values[0] ?? "";
        if (!isHistory && question.item && !typing) page.changed();
      },
    });
  }
  if (!towerInputs(info).text) return el("p.hint", "The query tower takes the features below.");
  const given = { id: "search-box", type: "search", placeholder: "Ask something" };
  return textInput(page, { ...given, "aria-label": "Text of the question" });
}

function textInput({ question, info }, given) {
  const input = el("input", { ...given, maxlength: info.limits?.max_text_length, dir: "auto" });
  input.value = question.text;
  input.oninput = () => {
    question.text = input.value;
  };
  return input;
}

/** The query tower's other features; beside a history also its text. */
function featureFields(page) {
  const { question, info, items } = page;
  if (question.mode === "item") return [];
  const inputs = towerInputs(info);
  const fields = inputs.others.map(({ name, kind, multi }) => {
    const known = info.manifest?.schema?.vocabularies?.[`query.${name}`] ?? [];
    const holding = (text) => known.filter((each) => each.toLowerCase().includes(text.toLowerCase()));
    const hints = { number: "a number", time: "2026-01-02T13:00; empty is now" };
    return field({
      label: name,
      multiple: multi,
      values: [question.features[name] ?? []].flat(),
      suggest: (text) =>
        kind === "history" ? items.suggest(text) : holding(text).map((value) => [value, value]),
      input: { placeholder: hints[kind] ?? (known.length ? `one of ${count(known.length)}` : "") },
      onChange: (values, typing) => {
        question.features[name] = multi ? values : (values[0] ?? "");
        if (!typing) page.changed();
      },
    });
  });
  if (question.mode !== "history" || !inputs.text) return fields;
  const label = el("span.label", { "aria-hidden": "true" }, inputs.text);
  const box = el("div.choice-box", textInput(page, { type: "text", "aria-label": inputs.text }));
  return [el("div.choice", label, box), ...fields];
}
