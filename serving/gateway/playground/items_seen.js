// Which items can be named: those that the bundle's towers know, and those that answers have shown.

import { search } from "./api.js";
import { textQuery } from "./question.js";

const MOST = 8;
const SEARCH_MS = 800; // of a search for suggestions

export class ItemsSeen {
  /** `info` is of the bundle; a new bundle begins anew. The field with images names no item. */
  constructor(info = {}, imageField = null) {
    this.info = info;
    this.names = (info.display_fields ?? []).filter((name) => name !== imageField);
    this.hits = new Map(); // id -> hit
    this.known = info.manifest?.schema?.vocabularies?.items ?? [];
  }

  /** Remember the items of an answer. */
  add(hits) {
    for (const hit of hits) this.hits.set(hit.id, hit);
  }

  /** An item's name: its first display field that is not empty, else its id. */
  title(id, fields = this.hits.get(id)?.fields ?? {}) {
    return fields[this.names.find((name) => fields[name])] ?? id;
  }

  /** `[id, name]` of items whose id or name contains a text, and of those that a search finds. */
  async suggest(text) {
    const wanted = text.toLowerCase();
    const holds = (value) => value.toLowerCase().includes(wanted);
    const found = new Set([...this.hits.keys()].filter((id) => holds(id) || holds(this.title(id))));
    for (const id of this.known) {
      if (found.size >= MOST) break;
      if (holds(id)) found.add(id);
    }
    const query = textQuery(text, this.info);
    if (wanted && query && found.size < MOST) {
      const hits = await search({ query, k: MOST }, AbortSignal.timeout(SEARCH_MS)).then(
        ({ body }) => body.hits,
        () => [], // suggestions are a help; the question itself reports errors
      );
      this.add(hits);
      for (const hit of hits) found.add(hit.id);
    }
    return [...found].slice(0, MOST).map((id) => [id, this.title(id)]);
  }
}
