// The filters of the form: a row for each condition, with inputs of its field's type.

import { choiceField } from "./choice_field.js";
import { el, icon } from "./dom.js";
import { arity, isComplete, operators, valuesOf } from "./filters.js";

/**
 * The button that adds a condition; null where the bundle has no filter fields.
 * @param {HTMLFormElement} form
 * @param {Object} page as of `fillForm`.
 * @param {function()} refill fills the form anew.
 */
export function addCondition(form, page, refill) {
  const fields = page.info.filter_fields ?? {};
  const [field] = Object.keys(fields).sort();
  if (!field) return null;
  const add = () => {
    page.question.conditions.push(newCondition(field, fields));
    refill();
    form.querySelector(".condition:last-child select")?.focus();
  };
  return el(
    "button",
    { type: "button", class: "ghost", id: "add-condition", on: { click: add } },
    icon("filter", 14),
    page.question.conditions.length ? "Add a condition" : "Add a filter",
  );
}

/** The conditions; null where there are none. Arguments as of `addCondition`. */
export function filterPanel(form, page, refill) {
  const { question } = page;
  if (!question.conditions.length) return null;
  const changed = (label) => {
    refill();
    // The form is new; the focus stays where it was.
    (form.querySelector(`[aria-label="${label}"]`) ?? form.querySelector("#add-condition")).focus();
    page.changed();
  };
  const rows = question.conditions.map((condition, at) => conditionRow(condition, at, page, changed));
  const ways = [
    ["all", "all conditions"],
    ["any", "one condition"],
  ];
  const match = select("Which conditions an item has to pass", ways, question.match, (value) => {
    question.match = value;
    page.changed();
  });
  return el(
    "fieldset",
    { class: "filters" },
    el("legend", { class: "unseen" }, "Filters"),
    rows.length > 1 && el("p", { class: "match" }, "Items that pass ", match),
    rows,
  );
}

function newCondition(field, fields) {
  return { field, operator: operators(fields[field])[0][0], values: [] };
}

function conditionRow(condition, at, page, changed) {
  const fields = page.info.filter_fields ?? {};
  const type = fields[condition.field];
  const names = Object.keys(fields).sort();
  const known = names.map((name) => [name, name]);
  if (!names.includes(condition.field)) known.push([condition.field, `${condition.field} (unknown)`]);
  const [fieldLabel, testLabel] = [`Field of condition ${at + 1}`, `Test of condition ${at + 1}`];
  const row = el("div", { class: "condition" });
  const mark = () => {
    row.dataset.complete = String(isComplete(condition, fields));
  };
  row.append(
    select(fieldLabel, known, condition.field, (field) => {
      Object.assign(condition, newCondition(field, fields));
      changed(fieldLabel);
    }),
    el("span", { class: "type" }, type ?? "unknown"),
    select(testLabel, operators(type), condition.operator, (operator) => {
      const most = arity(operator);
      Object.assign(condition, { operator, values: condition.values.slice(0, most) });
      changed(testLabel);
    }),
    valueFields(condition, type, at, page, mark),
    el(
      "button",
      { type: "button", class: "ghost", "aria-label": `Remove condition ${at + 1}`, on: { click: remove } },
      icon("close", 14),
    ),
  );
  mark();
  return row;

  function remove() {
    page.question.conditions.splice(at, 1);
    changed("");
  }
}

function select(label, options, value, onChange) {
  const made = el(
    "select",
    { "aria-label": label, on: { change: () => onChange(made.value) } },
    options.map(([name, shown]) => el("option", { value: name }, shown)),
  );
  made.value = value;
  return made;
}

/** Inputs of the values: with suggestions where they are strings, else of the field's type. */
function valueFields(condition, type, at, page, mark) {
  const wanted = arity(condition.operator);
  const label = (place) => `Value ${wanted === 2 ? `${place + 1} ` : ""}of condition ${at + 1}`;
  if (wanted === Infinity || (wanted === 1 && type?.startsWith("string"))) {
    return choiceField({
      label: label(0),
      shown: false,
      multiple: wanted === Infinity,
      values: condition.values,
      placeholder: "a value",
      suggest: (text) =>
        page
          .valuesSeen(condition.field)
          .filter((each) => each.toLowerCase().includes(text.toLowerCase()))
          .map((value) => ({ value, label: "" })),
      onChange: (values, typing) => {
        condition.values = values;
        mark();
        if (!typing) page.changed();
      },
    }).element;
  }
  const { input: attributes, hint } = valuesOf(type);
  const inputs = Array.from({ length: wanted }, (_, place) => {
    const input = el("input", {
      ...attributes,
      "aria-label": label(place),
      on: { change: () => change(place, input.value) },
    });
    input.value = condition.values[place] ?? "";
    return input;
  });
  const zone = hint && wanted > 0 && el("span", { class: "hint" }, hint);
  return el("div", { class: "values" }, inputs, zone);

  function change(place, value) {
    condition.values = inputs.map((_, each) => (each === place ? value : (condition.values[each] ?? "")));
    mark();
    page.changed();
  }
}
