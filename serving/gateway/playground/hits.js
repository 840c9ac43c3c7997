// The list of hits: rank, fields, score as a bar, and what can be done with each.

import { button, copyButton, el, icon, setShare } from "./dom.js";
import { marked } from "./marks.js";
import * as words from "./words.js";

const LONG = 48; // characters from which a field is shown as a paragraph
const IMAGE = /^(https?:\/\/\S+|(?!\w+:|\/\/)\S+\.(avif|gif|jpe?g|png|svg|webp)(\?\S*)?)$/i;

/**
 * An ordered list of hits.
 * @param {Object} page `{info, items, marks, imageField, mayWrite, refresh, similar, exclude, follow, record, types}`;
 *   `follow` and `record(event)`, with the types that it takes, are null where they do not apply.
 * @param {Object} list `{label, top, fusion, requestId, badge, compact}`: `top` is the score whose bar is full, `fusion`
 *   and `requestId` those of the answer, `badge(hit)` a node beside the score; a compact list has no long fields.
 */
export function hitList(hits, page, list) {
  const fields = hits.flatMap((hit) => Object.entries(hit.fields));
  const long = new Set(fields.filter(([, value]) => value.length > LONG).map(([name]) => name));
  const rows = hits.map((hit, n) => hitRow(hit, n, page, { ...list, long }));
  return el(list.compact ? "ol.hits.compact" : "ol.hits", { "aria-label": list.label }, rows);
}

function hitRow(hit, n, page, { top, fusion, requestId, badge, compact, long }) {
  const title = page.items.title(hit.id, hit.fields);
  const order = page.info.display_fields ?? Object.keys(hit.fields);
  const others = order
    .map((name) => [name, hit.fields[name]])
    .filter(([name, value]) => value && value !== title && !isImage(name, value, page));
  const record = (type) => page.record({ item_id: hit.id, type, request_id: requestId, position: n + 1 });
  const events = page.record && page.types.map((type) => [type, () => record(type)]);
  const toggle = async () => {
    const detail = row.querySelector(".detail");
    row.querySelector(".open").setAttribute("aria-expanded", !detail);
    if (detail) return detail.remove();
    const failed = ({ message }) => ({ itemDetail: () => el("p.detail", message) });
    row.append((await import("./item.js").catch(failed)).itemDetail(hit.id, page, hit, events));
  };
  const act = (name, label, action, sign) =>
    action &&
    button(`ghost.${name}`, icon(sign), () => action(hit.id), { "aria-label": label, title: label });
  const given = {
    tabindex: n ? -1 : 0,
    data: { id: hit.id },
    "aria-label": `${n + 1}. ${title}, score ${words.score(hit.score)}`,
  };
  const row = el(
    "li.hit",
    given,
    el("span.rank", { "aria-hidden": "true" }, String(n + 1)),
    image(hit.fields, page),
    el(
      "div.hit-body",
      el(
        "div.hit-line",
        el(
          "h3.hit-title",
          { dir: "auto" },
          button("open", marked(title, page.marks), toggle, { "aria-expanded": "false" }),
        ),
        !compact &&
          el(
            "dl.hit-fields",
            others
              .filter(([name]) => !long.has(name))
              .map(([name, value]) =>
                el("div", el("dt", name), el("dd", { dir: "auto" }, shown(value, page))),
              ),
          ),
      ),
      !compact &&
        others
          .filter(([name]) => long.has(name))
          .map(([name, value]) => el("p.hit-text", { dir: "auto", title: name }, shown(value, page))),
    ),
    el(
      "div.hit-score",
      badge?.(hit),
      el("span.score", words.score(hit.score)),
      setShare(
        el(hit.score < 0 ? "span.score-bar.negative" : "span.score-bar"),
        top > 0 ? hit.score / top : 0,
      ),
      parts(hit, fusion).length > 0 &&
        el(
          "dl.score-parts",
          parts(hit, fusion).map(([name, value]) => el("div", el("dt", name), el("dd", value))),
        ),
    ),
    el(
      "div.hit-actions",
      act("similar", `More like ${title}`, page.similar, "similar"),
      act("follow", `Add ${title} to the history`, page.follow, "plus"),
      act("exclude", `Exclude ${title}`, page.exclude, "close"),
      copyButton(hit.id, `Copy the id ${hit.id}`),
      events?.map(([type, act]) => button("ghost.event", type, act, { title: `Record ${type} of ${title}` })),
    ),
  );
  row.onkeydown = (event) => {
    if (event.target !== row || event.ctrlKey || event.metaKey || event.altKey) return;
    ({ m: page.similar, x: page.exclude, h: page.follow, Enter: toggle })[event.key]?.(hit.id);
  };
  row.onclick = ({ target }) => {
    if (!target.closest("a, button, .detail") && getSelection().isCollapsed) toggle();
  };
  return row;
}

/** What vectors, words and clicks gave, where words took part in the ranking. */
export function parts(hit, fusion) {
  if (!["FUSION_HYBRID", "FUSION_LEXICAL"].includes(fusion)) return [];
  const given = [
    ["vectors", hit.dense],
    ["words", hit.lexical],
    ["clicks", hit.prior],
  ];
  return given
    .filter(([name, value]) => name !== "clicks" || value !== undefined)
    .map(([name, value = 0]) => [name, words.digits(value)]);
}

/** The image of an item, if the operator has named its field; null where there is none. */
export function image(fields, page) {
  if (!isImage(page.imageField, fields[page.imageField], page)) return null;
  const given = { src: fields[page.imageField], alt: "", loading: "lazy", referrerpolicy: "no-referrer" };
  return el("img.image", given);
}

/** Whether a field is shown as an image, and not as a text. */
export const isImage = (name, value, page) => name === page.imageField && IMAGE.test(value ?? "");

/** A value with marked words; a web address as a link. */
export function shown(value, page) {
  if (!/^https?:\/\/\S+$/.test(value)) return marked(value, page.marks);
  return el("a", { href: value, target: "_blank", rel: "noopener noreferrer" }, value);
}

/** The best score of lists, at least 0: of the full bar, so that differences can be seen. */
export const topScore = (...lists) => Math.max(0, ...lists.flat().map((hit) => hit.score));

/** Arrow keys through hits, in the order of the page; from the first up to the search box. */
export function hitKeys(event, container, searchBox) {
  const hits = [...container.querySelectorAll(".hit")];
  const here = hits.indexOf(document.activeElement);
  const fromBox = document.activeElement === searchBox;
  if (!hits.length || (here < 0 && !fromBox)) return false;
  const steps = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: hits.length - 1 };
  if (!(event.key in steps) || (fromBox && event.key !== "ArrowDown")) return false;
  const next = Math.min(steps[event.key], hits.length - 1);
  event.preventDefault();
  for (const [n, hit] of hits.entries()) hit.tabIndex = n === next ? 0 : -1;
  (hits[next] ?? searchBox).focus();
  return true;
}
