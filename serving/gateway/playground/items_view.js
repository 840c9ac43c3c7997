// Browse items: by id, or by words.

import * as api from "./api.js";
import { failureView } from "./answer.js";
import { at, copyOf, el } from "./dom.js";
import { hitList, topScore } from "./hits.js";
import { editor, exists, itemDetail } from "./item.js";
import { wordsOf } from "./marks.js";
import { textQuery } from "./question.js";

const HITS = 20;

let turn = 0; // of the last call: what an earlier one finds is not shown

/** Show the item with an id, and the items that a search for the words finds; `page` as of `hitList`. */
export async function showItems(find, page) {
  const mine = (turn += 1);
  const show = (...content) => {
    if (mine === turn) at("found").replaceChildren(...content.filter(Boolean));
  };
  const context = { ...page, exclude: null, follow: null, marks: wordsOf(find) };
  at("find").value = find;
  at("add-item").hidden = !page.mayWrite;
  at("add-item").onclick = () =>
    show(el("div.card", el("h2", "A new item"), editor({ item: { id: "", fields: {} } }, page, page.open)));
  if (!find) return show(copyOf("no-item"));
  const query = textQuery(find, page.info);
  const mayBeId = !/\s/.test(find) || page.mayWrite || page.items.hits.has(find);
  try {
    const [isItem, answer] = await Promise.all([
      mayBeId && exists(find, page),
      query && api.search({ query, k: HITS }),
    ]);
    const hits = (answer?.body.hits ?? []).filter(({ id }) => id !== find);
    page.items.add(hits);
    const list = { label: "Items nearest to these words", top: topScore(hits), fusion: answer?.body.fusion };
    show(
      isItem && el("div.card", itemDetail(find, context)),
      hits.length > 0 && el("h2.found-title", isItem ? "Others nearest to these words" : "Items nearest to these words"),
      hits.length > 0 && hitList(hits, context, list),
      !isItem &&
        !hits.length &&
        el(
          "div.blank",
          el("h2", "Nothing found"),
          el(
            "p",
            query
              ? `No item has the id ${find}.`
              : `No item has the id ${find}; queries of this bundle have no text.`,
          ),
        ),
    );
  } catch (failure) {
    show(failureView(failure, () => showItems(find, page)));
  }
}
