// Conditions on the bundle's filter fields: their operators, and the `Filter` message made of them.

/** Field type -> operators that it has: `[name, label]`. */
const OPERATORS = {
  string: [
    ["eq", "is"],
    ["ne", "is not"],
    ["in", "is one of"],
    ["not_in", "is none of"],
  ],
  strings: [
    ["eq", "has"],
    ["ne", "has not"],
    ["in", "has one of"],
    ["not_in", "has none of"],
  ],
  number: [
    ["eq", "="],
    ["ne", "≠"],
    ["at_least", "≥"],
    ["above", ">"],
    ["at_most", "≤"],
    ["below", "<"],
    ["between", "between"],
  ],
  boolean: [
    ["true", "is true"],
    ["false", "is false"],
  ],
  time: [
    ["at_least", "from"],
    ["above", "after"],
    ["at_most", "until"],
    ["below", "before"],
    ["between", "between"],
  ],
};
/** Field type -> attributes of the inputs of its values, the hint behind them, how a value is shown and read. */
const VALUES = {
  number: {
    input: { type: "number", step: "any" },
    show: (value) => value,
    read: (text) => (Number.isFinite(Number(text)) ? { number: Number(text) } : null),
  },
  time: {
    input: { type: "datetime-local", step: 1 },
    hint: "UTC",
    show: (value) => value.replace("T", " "),
    read(text) {
      const moment = toMoment(text);
      return Number.isNaN(moment.getTime()) ? null : { time: moment.toISOString() };
    },
  },
};
const TEXTS = { input: { type: "text" }, show: (value) => value, read: (text) => ({ text }) };
const PRESENCE = [
  ["present", "has a value"],
  ["absent", "has no value"],
];
const BOUNDS = ["at_least", "above", "at_most", "below"];

/** The operators of a type; those of an unknown type only test whether there is a value. */
export function operators(type) {
  return [...(OPERATORS[type] ?? []), ...PRESENCE];
}

/** What the form has to know of the values of a type, as in `VALUES`. */
export function valuesOf(type) {
  return VALUES[type] ?? TEXTS;
}

/** How many values an operator takes: 0, 1, 2, or Infinity. */
export function arity(operator) {
  if (["true", "false", "present", "absent"].includes(operator)) return 0;
  if (operator === "between") return 2;
  return operator === "in" || operator === "not_in" ? Infinity : 1;
}

/**
 * Whether a condition can be asked.
 * @param {{field: string, operator: string, values: string[]}} condition
 * @param {Object} fields filter field -> type, as `Info` gives them.
 */
export function isComplete(condition, fields) {
  const type = fields[condition.field];
  if (!operators(type).some(([name]) => name === condition.operator)) return false;
  const count = arity(condition.operator);
  const given = condition.values.filter((value) => toValue(type, value) !== null);
  return count === Infinity ? given.length > 0 : given.length === count;
}

/**
 * The `Filter` of conditions; null where none is complete.
 * @param {Array} conditions
 * @param {Object} fields filter field -> type.
 * @param {"all"|"any"} match whether an item has to pass all of them, or one.
 */
export function toFilter(conditions, fields, match) {
  const made = conditions
    .filter((each) => isComplete(each, fields))
    .map((each) => toCondition(each, fields[each.field]));
  if (made.length < 2) return made[0] ?? null;
  return { [match]: { filters: made } };
}

/** A condition in words, for a list of filters. */
export function inWords({ field, operator, values }, type) {
  const label = operators(type).find(([name]) => name === operator)?.[1] ?? operator;
  const shown = values.filter(Boolean).map(valuesOf(type).show);
  return [field, label, shown.join(operator === "between" ? " and " : ", ")].filter(Boolean).join(" ");
}

function toCondition({ field, operator, values }, type) {
  const given = values.map((value) => toValue(type, value)).filter((value) => value !== null);
  const test = (name, value) => ({ condition: { field, [name]: value } });
  if (operator === "present" || operator === "absent") return test("present", operator === "present");
  if (operator === "true" || operator === "false") return test("equals", { boolean: operator === "true" });
  if (operator === "eq") return test("equals", given[0]);
  if (operator === "ne") return { not: test("equals", given[0]) };
  if (operator === "in") return test("in", { values: given });
  if (operator === "not_in") return { not: test("in", { values: given }) };
  if (operator === "between") return test("range", { at_least: given[0], at_most: given[1] });
  return test("range", { [BOUNDS.find((each) => each === operator)]: given[0] });
}

/** The `Date` of a text in ISO 8601; without a zone it is in UTC. */
export function toMoment(text) {
  return new Date(/[zZ]$|[+-]\d\d:\d\d$/.test(text) ? text : `${text}Z`);
}

/** A typed `FilterValue` of an input's text, null where it has none. */
function toValue(type, text) {
  const trimmed = text.trim();
  return trimmed ? valuesOf(type).read(trimmed) : null;
}
