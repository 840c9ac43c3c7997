// The form of the question: what is asked, how many items, which are left out, and the filters.

import { choiceField } from "./choice_field.js";
import { el, icon, present } from "./dom.js";
import { addCondition, filterPanel } from "./filter_form.js";
import { excludesHistory, towerInputs } from "./question.js";
import { count } from "./words.js";

const MODE_NAMES = { text: "Text", history: "History", item: "Item" };
const PLACEHOLDERS = { text: "Ask something", history: "Ids of items, oldest first", item: "Id of an item" };

/**
 * Fill the form with a question.
 * @param {HTMLFormElement} form
 * @param {Object} page `{question, info, items, canCompare, changed, ask, valuesSeen}`; `changed()` is called after a
 *   change that can be asked at once, `ask()` by the button.
 */
export function fillForm(form, page) {
  const { question, info } = page;
  const inputs = towerInputs(info);
  const refill = () => fillForm(form, page);
  const modes = [
    ...(inputs.text || (inputs.others.length && !inputs.history) ? ["text"] : []),
    ...(inputs.history ? ["history"] : []),
    "item",
  ];
  if (!modes.includes(question.mode)) question.mode = modes[0];
  form.replaceChildren(
    ...present([
      el(
        "div",
        { class: "ask-row" },
        modeSwitch(modes, form, page),
        mainField(form, page, inputs),
        el("button", { class: "primary ask", type: "submit" }, icon("search"), el("span", {}, "Search")),
      ),
      extraFields(page, inputs),
      el(
        "div",
        { class: "options" },
        kField(page),
        excludeField(page),
        addCondition(form, page, refill),
        historySwitch(page),
        compareSwitch(page),
      ),
      filterPanel(form, page, refill),
    ]),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    page.ask();
  };
}

function modeSwitch(modes, form, page) {
  let clicked = false;
  const choose = (mode) => {
    page.question.mode = mode;
    fillForm(form, page);
    // Arrow keys go on through the modes; a click goes on to the question.
    (clicked
      ? form.querySelector("#search-box")
      : form.querySelector(`[name="mode"][value="${mode}"]`)
    )?.focus();
  };
  return el(
    "fieldset",
    {
      class: "segments",
      on: {
        pointerdown: () => {
          clicked = true;
        },
      },
    },
    el("legend", { class: "unseen" }, "Ask by"),
    ...modes.map((mode) =>
      el(
        "label",
        {},
        el("input", {
          type: "radio",
          name: "mode",
          value: mode,
          checked: mode === page.question.mode,
          on: { change: () => choose(mode) },
        }),
        el("span", {}, MODE_NAMES[mode]),
      ),
    ),
  );
}

function mainField(form, page, inputs) {
  const { question, items } = page;
  const suggest = (text) => items.suggest(text);
  let field;
  if (question.mode === "text" && inputs.text) {
    const input = el("input", {
      type: "search",
      "aria-label": "Text of the question",
      placeholder: PLACEHOLDERS.text,
      enterkeyhint: "search",
      maxlength: page.info.limits?.max_text_length || null,
      dir: "auto",
      on: {
        input: (event) => {
          question.text = event.target.value;
        },
      },
    });
    input.value = question.text;
    field = {
      element: el("div", { class: "main-input" }, input, el("kbd", { "aria-hidden": "true" }, "/")),
      input,
    };
  } else if (question.mode === "text") {
    return el("p", { class: "main-input hint" }, "The query tower takes the features below.");
  } else if (question.mode === "history") {
    field = choiceField({
      label: "History",
      shown: false,
      values: question.history,
      suggest,
      name: (id) => items.title(id),
      placeholder: PLACEHOLDERS.history,
      onChange: (values) => {
        question.history = values;
      },
    });
  } else {
    field = choiceField({
      label: "Item",
      shown: false,
      multiple: false,
      values: question.item ? [question.item] : [],
      suggest,
      placeholder: PLACEHOLDERS.item,
      onChange: ([value], typing) => {
        question.item = value ?? "";
        if (value && !typing) page.changed();
      },
    });
  }
  field.input.id = "search-box";
  return question.mode === "text" ? field.element : el("div", { class: "main-input" }, field.element);
}

/** The query tower's other features; beside a history also its text. */
function extraFields(page, inputs) {
  const { question, info } = page;
  if (question.mode === "item") return null;
  const fields = inputs.others.map((spec) => featureField(spec, page));
  if (question.mode === "history" && inputs.text) {
    const input = el("input", {
      type: "text",
      id: "history-text",
      on: {
        input: (event) => {
          question.text = event.target.value;
        },
      },
    });
    input.value = question.text;
    fields.unshift(
      el(
        "div",
        { class: "choice" },
        el("label", { class: "label", for: "history-text" }, inputs.text),
        el("div", { class: "choice-box" }, input),
      ),
    );
  }
  return fields.length ? el("div", { class: "features", data: { name: info.name ?? "" } }, fields) : null;
}

const placeholders = { number: "a number", time: "2026-01-02T13:00; empty is now" };

function featureField({ name, kind, multi }, page) {
  const { question, info, items } = page;
  const vocabulary = info.manifest?.schema?.vocabularies?.[`query.${name}`] ?? [];
  const known = (text) =>
    vocabulary
      .filter((each) => each.toLowerCase().includes(text.toLowerCase()))
      .map((value) => ({ value, label: "" }));
  return choiceField({
    label: name,
    type: kind,
    multiple: multi,
    eager: vocabulary.length > 0,
    values: [question.features[name] ?? []].flat(),
    suggest: kind === "history" ? (text) => items.suggest(text) : known,
    placeholder: placeholders[kind] ?? (vocabulary.length ? `one of ${count(vocabulary.length)}` : ""),
    onChange: (values, typing) => {
      question.features[name] = multi ? values : (values[0] ?? "");
      if (!typing) page.changed();
    },
  }).element;
}

function kField(page) {
  const { question, info } = page;
  const standard = info.limits?.default_k || 10;
  const input = el("input", {
    id: "k",
    type: "number",
    min: 1,
    max: info.limits?.max_k || 1000,
    step: 1,
    placeholder: String(standard),
    on: {
      change: () => {
        if (!input.reportValidity()) return;
        question.k = Number(input.value) || 0;
        page.changed();
      },
    },
  });
  if (question.k) input.value = question.k;
  return el("label", { class: "inline", for: "k" }, el("span", { class: "label" }, "Hits"), input);
}

function excludeField(page) {
  const { question, items } = page;
  return choiceField({
    label: "Exclude",
    values: question.exclude,
    suggest: (text) => items.suggest(text),
    name: (id) => items.title(id),
    placeholder: "an id",
    onChange: (values) => {
      question.exclude = values;
      page.changed();
    },
  }).element;
}

function historySwitch(page) {
  if (page.question.mode !== "history") return null;
  const excludes = page.question.excludeHistory ?? excludesHistory(page.info);
  return toggle(
    "Leave out the history",
    excludes,
    (on) => {
      page.question.excludeHistory = on;
      page.changed();
    },
    "exclude-history",
  );
}

function compareSwitch(page) {
  if (!page.canCompare) return null;
  return toggle(
    "Compare with the challenger",
    page.question.compare,
    (on) => {
      page.question.compare = on;
      page.changed();
    },
    "compare",
  );
}

function toggle(label, checked, onChange, id) {
  return el(
    "label",
    { class: "toggle" },
    el("input", {
      type: "checkbox",
      role: "switch",
      id,
      checked,
      on: { change: (event) => onChange(event.target.checked) },
    }),
    el("span", { class: "toggle-track", "aria-hidden": "true" }),
    el("span", {}, label),
  );
}
