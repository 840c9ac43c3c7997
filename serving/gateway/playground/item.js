// One item: all its fields, whether it came with the bundle or was written since, its neighbours, and its changes.

import * as api from "./api.js";
import { failureView } from "./answer.js";
import { button, copyButton, el, facts } from "./dom.js";
import { image, isImage, parts, shown } from "./hits.js";
import * as words from "./words.js";

const NEIGHBOURS = 5;
const MOST = 50; // neighbours of a neighbour, among which an item's own fields are looked for
const ORIGINS = {
  ITEM_BUNDLE: "built: it came with the bundle",
  ITEM_LIVE: "live: written since the bundle was built",
  ITEM_DELETED: "withdrawn",
  ITEM_UNKNOWN: "unknown",
  "": "built or live; only tokens with the role writer can tell",
};

/**
 * The item of a hit, or of an id alone, with its neighbours; arguments as of `hitList`, and `events`: types of events
 * that can be recorded for the hit, each with what records it.
 */
export function itemDetail(id, page, hit = null, events = null) {
  const box = el("div.detail", { "aria-busy": "true" });
  const load = () =>
    read(id, page, hit)
      .then((found) => box.replaceChildren(...view(found, page, hit, events, load).filter(Boolean)))
      .catch((failure) => box.replaceChildren(failureView(failure)))
      .finally(() => box.removeAttribute("aria-busy"));
  load();
  return box;
}

/** An item's `ItemState`, and as `near` the hits nearest to it; null where searches do not know it. */
async function read(id, page, hit) {
  const state = page.mayWrite && (await api.item(id));
  const near = state && !["ITEM_BUNDLE", "ITEM_LIVE"].includes(state.origin) ? null : await nearest(id);
  page.items.add(near ?? []);
  if (state) return { ...state, near };
  if (!near) return { near, item: { id, fields: {} }, origin: "ITEM_UNKNOWN" };
  // Without a catalogue only hits have fields: an item is often a neighbour of its nearest one.
  if (!page.items.hits.has(id) && near.length) {
    const k = Math.min(MOST, page.info.limits?.max_k || MOST);
    page.items.add(await nearest(near[0].id, k));
  }
  const fields = (hit ?? page.items.hits.get(id))?.fields ?? {};
  return { near, item: { id, fields }, origin: page.info.state?.catalogue ? "" : "ITEM_BUNDLE" };
}

/** The hits nearest to an item; null where no search knows it. */
const nearest = (id, k = NEIGHBOURS) =>
  api.search({ query: { item_id: id }, k }).then(
    ({ body }) => body.hits,
    (failure) => (failure.code === "NOT_FOUND" ? null : Promise.reject(failure)),
  );

/** Whether there is an item of an id: live, built or withdrawn. */
export const exists = async (id, page) =>
  page.mayWrite ? (await api.item(id)).origin !== "ITEM_UNKNOWN" : Boolean(await nearest(id, 1));

function view(state, page, hit, events, load) {
  const { item, near, origin } = state;
  const named = (page.info.display_fields ?? Object.keys(item.fields))
    .map((name) => [name, item.fields[name]])
    .filter(([name, value]) => value && !isImage(name, value, page));
  const features = Object.entries(item.features ?? {}).map(([name, value]) => [name, String(raw(value))]);
  const written = Number(state.sequence);
  const changes = el("div.changes");
  const change = (made) => () => changes.replaceChildren(made(state, page, load));
  return [
    !hit && el("h2", { dir: "auto" }, page.items.title(item.id, item.fields)),
    el(
      "div.detail-body",
      image(item.fields, page),
      facts([
        ["id", [el("code", item.id), copyButton(item.id, `Copy the id ${item.id}`)]],
        ...named.map(([name, value]) => [name, shown(value, page)]),
        ...features.map(([name, value]) => [`${name} (feature)`, value]),
        ["Fields", Object.keys(item.fields).length === 0 && near && "not known: no answer has shown them"],
        ["Origin", ORIGINS[origin]],
        ["Written", written > 0 && `${words.ago(state.written_at)}, as change ${words.count(written)}`],
        ["Score", hit && words.score(hit.score)],
        ...(hit ? parts(hit, hit.lexical === undefined ? "" : "FUSION_HYBRID") : []),
      ]),
      near?.length > 0 &&
        el(
          "section.near",
          el("h4", "Nearest by vector"),
          el(
            "ol",
            near.map((each) =>
              el(
                "li",
                el("a", { href: itemLink(each.id), dir: "auto" }, page.items.title(each.id)),
                el("span.number", words.score(each.score)),
              ),
            ),
          ),
        ),
    ),
    el(
      "div.detail-actions",
      near && button("secondary", "More like this", () => page.similar(item.id)),
      hit && page.follow && button("secondary", "Add to the history", () => page.follow(item.id)),
      hit && page.exclude && button("secondary", "Exclude", () => page.exclude(item.id)),
      events?.map(([type, act]) => button("secondary", `Record ${type}`, act)),
      hit && el("a.secondary", { href: itemLink(item.id) }, "Open under Items"),
      page.mayWrite && origin !== "ITEM_UNKNOWN" && button("secondary.edit", "Edit", change(editor)),
      page.mayWrite && near && button("secondary.withdraw", "Withdraw", change(withdrawal)),
    ),
    changes,
  ];
}

export const itemLink = (id) => `#view=items&find=${encodeURIComponent(id)}`;

/** A form that writes an item as JSON; of a `state` without an id, a new one. */
export function editor(state, page, load) {
  const given = state.item.features ?? {};
  const specs = Object.entries(page.info.manifest.schema?.item ?? {});
  // The features of a built item are not known: its display fields may hold the texts.
  const names = [
    ...specs.filter(([, { kind }]) => kind === "text").map(([name]) => name),
    ...Object.keys(given),
  ];
  const features = Object.fromEntries(
    names.map((name) => [name, given[name] ? raw(given[name]) : (state.item.fields[name] ?? "")]),
  );
  const id = el("input", {
    type: "text",
    "aria-label": "Id of the item",
    placeholder: "its id",
    readonly: Boolean(state.item.id),
  });
  const text = el("textarea", { "aria-label": "The item as JSON", spellcheck: "false", rows: 10 });
  id.value = state.item.id;
  text.value = JSON.stringify({ features, fields: state.item.fields }, null, 2);
  const save = () => {
    const { features: values = {}, fields = {} } = JSON.parse(text.value);
    const typed = Object.entries(values)
      .filter(([, value]) => value !== null)
      .map(([name, value]) => [name, typedValue(value)]);
    const item = { id: id.value.trim(), features: Object.fromEntries(typed), fields };
    const isNew = !state.item.id;
    return api.write(
      "upsert",
      { item, expected_sequence: state.sequence },
      { mode: isNew ? "WRITE_INSERT" : "WRITE_UPSERT" },
    );
  };
  const isUnknown =
    state.origin === "ITEM_BUNDLE" && " The features of an item that came with the bundle are not known.";
  const hint = [
    "Features are what the towers read and filters test; fields are what answers show.",
    isUnknown,
  ];
  return changeForm({ verb: "Save", hint, inputs: [id, text], save }, page, load);
}

function withdrawal(state, page, load) {
  const { id } = state.item;
  const save = () => api.write("delete", { id, expected_sequence: state.sequence });
  return changeForm(
    { verb: "Withdraw it", hint: `No search will find ${id} any more.`, inputs: [], save },
    page,
    load,
  );
}

function changeForm({ verb, hint, inputs, save }, page, load) {
  const result = el("div", { role: "status" });
  const submit = button("primary", verb, null, { type: "submit" });
  const made = el("form.change", el("p.hint", hint), inputs, submit, result);
  made.onsubmit = async (event) => {
    event.preventDefault();
    try {
      await save();
      await page.refresh();
      await load(inputs[0]?.value.trim());
    } catch (error) {
      const failure =
        error instanceof api.Failure ? error : new api.Failure("INVALID_ARGUMENT", error.message);
      result.replaceChildren(failureView(failure));
    }
  };
  return made;
}

/** A `FeatureValue` as plain JSON, and back; truth values are texts. */
const raw = ({ text, number, strings }) => text ?? number ?? strings?.values ?? "";

function typedValue(value) {
  if (typeof value === "number") return { number: value };
  return Array.isArray(value) ? { strings: { values: value.map(String) } } : { text: String(value) };
}
