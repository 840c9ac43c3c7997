// The form of the question: what is asked, how many items, which are left out, and the filters.

import { at, button, el, icon } from "./dom.js";
import { field } from "./field.js";
import { arity, INPUTS, isComplete, operators } from "./filters.js";
import { excludesHistory, modesOf, towerInputs } from "./question.js";
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
  const excludes = question.excludeHistory ?? excludesHistory(info);
  toggle("exclude-history", question.mode === "history", excludes, (on) => set(page, "excludeHistory", on));
  toggle("compare", page.canCompare, question.compare, (on) => set(page, "compare", on));
  fillFilters(page);
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

function fillFilters(page) {
  const { question, info } = page;
  const fields = info.filter_fields ?? {};
  const [first] = Object.keys(fields).sort();
  const refill = (focus) => {
    fillFilters(page); // the rows are new, and the focus goes to the one that had it
    (document.querySelector(`[aria-label="${focus}"]`) ?? at("add-condition")).focus();
  };
  const { conditions } = question;
  at("add-condition").hidden = !first;
  at("add-condition").onclick = () => {
    conditions.push({ field: first, operator: operators(fields[first])[0][0], values: [] });
    refill(`Field of condition ${conditions.length}`);
  };
  at("filters").hidden = !conditions.length;
  at("match-row").hidden = conditions.length < 2;
  at("match").value = question.match;
  at("match").onchange = () => set(page, "match", at("match").value);
  at("conditions").replaceChildren(
    ...conditions.map((each, place) => conditionRow(each, place, page, refill)),
  );
}

function conditionRow(condition, place, page, refill) {
  const fields = page.info.filter_fields ?? {};
  const type = fields[condition.field];
  const names = Object.keys(fields)
    .sort()
    .map((name) => [name, name]);
  if (!type) names.push([condition.field, `${condition.field} (unknown)`]);
  const change = (changes, focus) => {
    Object.assign(condition, changes);
    refill(focus);
    page.changed();
  };
  const [fieldLabel, testLabel] = [`Field of condition ${place + 1}`, `Test of condition ${place + 1}`];
  return el(
    "div.condition",
    { data: { complete: isComplete(condition, fields) } },
    select(fieldLabel, names, condition.field, (field) =>
      change({ field, operator: operators(fields[field])[0][0], values: [] }, fieldLabel),
    ),
    el("span.type", type ?? "unknown"),
    select(testLabel, operators(type), condition.operator, (operator) =>
      change({ operator, values: condition.values.slice(0, arity(operator)) }, testLabel),
    ),
    valueFields(condition, type, place, page),
    button(
      "ghost",
      icon("close"),
      () => {
        page.question.conditions.splice(place, 1);
        refill();
        page.changed();
      },
      { "aria-label": `Remove condition ${place + 1}` },
    ),
  );
}

function select(label, options, value, onChange) {
  const made = el(
    "select",
    { "aria-label": label },
    options.map(([name, text]) => el("option", { value: name }, text)),
  );
  made.value = value;
  made.onchange = () => onChange(made.value);
  return made;
}

/** Inputs of the values, of the field's type; those of strings suggest values of the answers so far. */
function valueFields(condition, type, place, page) {
  const wanted = arity(condition.operator);
  const multiple = wanted === Infinity;
  return Array.from({ length: multiple ? 1 : wanted }, (_, n) =>
    field({
      label: `Value ${wanted === 2 ? `${n + 1} ` : ""}of condition ${place + 1}`,
      shown: false,
      multiple,
      values: multiple ? condition.values : condition.values.slice(n, n + 1),
      suggest: () => page.valuesSeen(condition.field).map((value) => [value, value]),
      input: { placeholder: "a value", ...INPUTS[type] },
      onChange: (values, typing) => {
        if (multiple) condition.values = values;
        else condition.values[n] = values[0] ?? "";
        const row = at("conditions").children[place];
        row.dataset.complete = isComplete(condition, page.info.filter_fields);
        if (!typing) page.changed();
      },
    }),
  );
}
