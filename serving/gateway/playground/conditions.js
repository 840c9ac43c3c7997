// The conditions of a question on the filter fields, each with inputs of its type.

import { at, button, el, icon } from "./dom.js";
import { field } from "./field.js";
import { arity, INPUTS, isComplete, operators } from "./filters.js";

/** Add a condition to the question, on the first field. */
export function addCondition(page) {
  const { conditions } = page.question;
  const fields = page.info.filter_fields;
  const [first] = Object.keys(fields).sort();
  conditions.push({ field: first, operator: operators(fields[first])[0][0], values: [] });
  refill(page, `Field of condition ${conditions.length}`);
}

/** Fill the rows anew; the focus goes to the input that had it. */
function refill(page, focus) {
  fillConditions(page);
  (document.querySelector(`[aria-label="${focus}"]`) ?? at("add-condition")).focus();
}

/** Show the question's conditions; `page` as of `fillForm`. */
export function fillConditions(page) {
  const { conditions, match } = page.question;
  at("filters").hidden = !conditions.length;
  at("match-row").hidden = conditions.length < 2;
  at("match").value = match;
  at("match").onchange = () => {
    page.question.match = at("match").value;
    page.changed();
  };
  at("conditions").replaceChildren(
    ...conditions.map((each, place) => conditionRow(each, place, page)),
  );
}

function conditionRow(condition, place, page) {
  const fields = page.info.filter_fields ?? {};
  const type = fields[condition.field];
  const names = Object.keys(fields)
    .sort()
    .map((name) => [name, name]);
  if (!type) names.push([condition.field, `${condition.field} (unknown)`]);
  const change = (changes, focus) => {
    Object.assign(condition, changes);
    refill(page, focus);
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
        refill(page);
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
