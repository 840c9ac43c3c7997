// Conditions on the bundle's filter fields: their operators, and the `Filter` message made of them.

const EQUALITY = { eq: "is", ne: "is not", in: "is one of", not_in: "is none of" };
/** Field type -> operators that it has, with their labels. */
const OPERATORS = {
  string: EQUALITY,
  strings: { eq: "has", ne: "has not", in: "has one of", not_in: "has none of" },
  number: { eq: "=", ne: "≠", at_least: "≥", above: ">", at_most: "≤", below: "<", between: "between" },
  boolean: { true: "is true", false: "is false" },
  time: { at_least: "from", above: "after", at_most: "until", below: "before", between: "between" },
};
const ARITIES = { true: 0, false: 0, present: 0, absent: 0, between: 2, in: Infinity, not_in: Infinity };
/** Field type -> attributes of the inputs of its values. */
export const INPUTS = {
  number: { type: "number", step: "any" },
  time: { type: "datetime-local", step: 1, title: "UTC" },
};

/** `[name, label]` of a type's operators; those of an unknown type only test whether there is a value. */
export const operators = (type) =>
  Object.entries({ ...OPERATORS[type], present: "has a value", absent: "has no value" });

/** How many values an operator takes: 0, 1, 2, or Infinity. */
export const arity = (operator) => ARITIES[operator] ?? 1;

/** Whether a condition `{field, operator, values}` can be asked; `fields` are filter field -> type. */
export function isComplete({ field, operator, values }, fields) {
  if (!operators(fields[field]).some(([name]) => name === operator)) return false;
  const given = values.filter((value) => toValue(fields[field], value)).length;
  return arity(operator) === Infinity ? given > 0 : given === arity(operator);
}

/** The `Filter` of conditions, of which an item passes `all` or `any`; null where none is complete. */
export function toFilter(conditions, fields, match) {
  const made = conditions
    .filter((each) => isComplete(each, fields))
    .map((each) => toCondition(each, fields[each.field]));
  return made.length < 2 ? (made[0] ?? null) : { [match]: { filters: made } };
}

function toCondition({ field, operator, values }, type) {
  const given = values.map((value) => toValue(type, value)).filter(Boolean);
  const test = (name, value) => ({ condition: { field, [name]: value } });
  const tests = {
    present: () => test("present", true),
    absent: () => test("present", false),
    true: () => test("equals", { boolean: true }),
    false: () => test("equals", { boolean: false }),
    eq: () => test("equals", given[0]),
    ne: () => ({ not: test("equals", given[0]) }),
    in: () => test("in", { values: given }),
    not_in: () => ({ not: test("in", { values: given }) }),
    between: () => test("range", { at_least: given[0], at_most: given[1] }),
  };
  return (tests[operator] ?? (() => test("range", { [operator]: given[0] })))();
}

/** The `Date` of a text in ISO 8601; without a zone it is in UTC. */
export const toMoment = (text) => new Date(/[zZ]$|[+-]\d\d:\d\d$/.test(text) ? text : `${text}Z`);

/** A typed `FilterValue` of an input's text, null where it has none. */
function toValue(type, text) {
  const trimmed = text.trim();
  if (!trimmed) return null;
  if (type === "number") return Number.isFinite(Number(trimmed)) ? { number: Number(trimmed) } : null;
  if (type !== "time") return { text: trimmed };
  const moment = toMoment(trimmed);
  return Number.isNaN(moment.getTime()) ? null : { time: moment.toISOString() };
}
