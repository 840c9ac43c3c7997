// Words of the question in the texts of hits: tokens as BM25 has them, so parts of identifiers, too.

import { el } from "./dom.js";

const UNSPACED = "\\p{sc=Han}\\p{sc=Hiragana}\\p{sc=Katakana}\\p{sc=Hangul}\\p{sc=Thai}";
const TOKEN = new RegExp(
  `[${UNSPACED}]|\\p{Lu}+\\p{N}*(?!\\p{Ll})|\\p{Lu}?[\\p{Ll}\\p{Lo}\\p{M}\\p{N}]+`,
  "gu",
);
const STOP_WORDS = new Set(
  "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was will with".split(
    " ",
  ),
);

const stem = (word) =>
  word
    .normalize("NFKC")
    .toLowerCase()
    .replace(/(?<=...)(ing|ed|es|s|e)$/, "");

/** The words of a text that are worth a mark; common ones only if it has no others. */
export function wordsOf(text) {
  const all = text.match(TOKEN) ?? [];
  const rare = all.filter((word) => !STOP_WORDS.has(word.toLowerCase()));
  return new Set((rare.length ? rare : all).map(stem));
}

/** A text as nodes, with its words that are among `words` marked. */
export function marked(text, words) {
  const nodes = [];
  let end = 0;
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    if (!words.has(stem(token))) continue;
    nodes.push(text.slice(end, index), el("mark", token));
    end = index + token.length;
  }
  return [...nodes, text.slice(end)];
}
