// Which items can be named: those that the bundle's towers know, and those that answers have shown.

import { search } from "./api.js";
import { towerInputs } from "./question.js";

const MOST = 8;
const ASKED_MS = 800; // that a search for suggestions may take

/** Ids and names for completion. */
export class ItemsSeen {
  constructor() {
    this.titles = new Map(); // id -> the first display field
    this.known = [];
    this.info = {};
  }

  /** Begin with a bundle: the items that its vocabulary lists, if a tower knows items. */
  of(info) {
    this.info = info;
    const known = info.manifest?.schema?.vocabularies?.items;
    this.known = Array.isArray(known) ? known : [];
  }

  /** Remember the items of an answer. */
  add(hits) {
    for (const hit of hits) this.titles.set(hit.id, titleOf(hit, this.info));
  }

  title(id) {
    return this.titles.get(id) ?? id;
  }

  /** Items whose id or name contains a text; where the query tower takes texts, also those that a search finds. */
  async suggest(text) {
    const found = new Map();
    const wanted = text.toLowerCase();
    const put = (value) =>
      found.size < MOST && found.set(value, { value, label: this.titles.get(value) ?? "" });
    for (const [id, title] of this.titles) {
      if (id.toLowerCase().includes(wanted) || title.toLowerCase().includes(wanted)) put(id);
    }
    for (const fits of [(id) => id.startsWith(wanted), (id) => id.includes(wanted)]) {
      for (const id of this.known) {
        if (found.size >= MOST) break;
        if (fits(id.toLowerCase())) put(id);
      }
    }
    if (wanted && found.size < MOST) for (const id of await this.#searched(text)) put(id);
    return [...found.values()];
  }

  async #searched(text) {
    const { text: feature } = towerInputs(this.info);
    if (!feature) return [];
    try {
      const query = feature === "text" ? { text } : { features: { [feature]: { text } } };
      const { body } = await search({ query, k: MOST }, AbortSignal.timeout(ASKED_MS));
      const hits = body.hits ?? [];
      this.add(hits);
      return hits.map((hit) => hit.id);
    } catch {
      return []; // suggestions are a help; what goes wrong is told when the question itself is asked
    }
  }
}

/** An item's name: its first display field that is not empty, else its id. */
export function titleOf(hit, info) {
  const fields = hit.fields ?? {};
  const first = (info.display_fields ?? []).find((name) => fields[name]);
  return first ? fields[first] : hit.id;
}
