"""Made-up documents: short texts in clusters, as many as are wanted, never all of them in memory.

Topics have sizes as words of a language have (Zipf 1949), and words of their own beside those that all
share. Every slice has a generator of its own, so a catalogue is the same however it is read.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.bundle import sync

ITEMS_A_TOPIC = 500  # on average
ZIPF = 0.7  # exponent of the topics' sizes; with 1 a tenth of all items would be of one topic
OWN_WORDS = 36  # of a topic
COMMON_WORDS = 200
SHORTEST, LONGEST = 4, 10  # words of a document
SLICE = 50_000  # documents that are made at a time
ITEMS, QUERIES = 1, 2  # streams of random numbers; no query is an item, but by chance

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Documents:
    """Some documents.

    Args:
        texts: of 4 to 10 words, about 20 to 60 characters.
        topics: the topic of each.
    """

    texts: list[str]
    topics: Rows


@dataclass(frozen=True)
class Topics:
    """What a catalogue is about; made by `topics_of`.

    Args:
        words: (T, OWN_WORDS), of each topic.
        common: (COMMON_WORDS,), of all.
        up_to: float64 (T,), share of the documents that are of a topic or of one before it.
    """

    words: npt.NDArray[Any]
    common: npt.NDArray[Any]
    up_to: npt.NDArray[np.float64]

    def documents(self, seed: int, stream: int, number: int, count: int) -> Documents:
        """Slice `number` of a stream.

        A word is the more frequent the earlier it stands in its list.
        """
        rng = np.random.default_rng([seed, stream, number])
        topics = np.searchsorted(self.up_to, rng.random(count), side="right")
        lengths = rng.integers(SHORTEST, LONGEST + 1, count)
        own = self.words[topics[:, None], _early(rng, count, OWN_WORDS)]  # (count, LONGEST)
        common = self.common[_early(rng, count, COMMON_WORDS)]
        texts = [
            " ".join([*mine[: length // 2 + 1], *shared[: length - length // 2 - 1]])
            for mine, shared, length in zip(own, common, lengths, strict=True)
        ]
        return Documents(texts, topics)


def topics_of(seed: int, items: int) -> Topics:
    """The topics of a catalogue of so many items."""
    rng = np.random.default_rng([seed, 0])
    count = max(2, items // ITEMS_A_TOPIC)
    words = _words(rng, count * OWN_WORDS, 3).reshape(count, OWN_WORDS)
    short = [_words(rng, COMMON_WORDS // 2, syllables) for syllables in (1, 2)]
    common = rng.permutation(np.concatenate(short))
    return Topics(words, common, zipf(count))


def zipf(count: int) -> npt.NDArray[np.float64]:
    """(count,): share of all that belongs to a topic or to one before it; the last is 1."""
    sizes = np.arange(1.0, count + 1) ** -ZIPF
    up_to: npt.NDArray[np.float64] = np.cumsum(sizes) / sizes.sum()
    up_to[-1] = 1
    return up_to


def slices(topics: Topics, seed: int, items: int) -> Iterator[Documents]:
    """All items of a catalogue, in order."""
    for number, begin in enumerate(range(0, items, SLICE)):
        yield topics.documents(seed, ITEMS, number, min(SLICE, items - begin))


def write_items(path: Path, topics: Topics, seed: int, items: int) -> None:
    """All items as a TSV file of `item_id` and `text`, whole or not at all."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("w", encoding="utf-8") as file:
        file.write("item_id\ttext\n")
        begin = 0
        for each in slices(topics, seed, items):
            rows = enumerate(each.texts, begin)
            file.write("".join(f"{item_id(row)}\t{text}\n" for row, text in rows))
            begin += len(each.texts)
    sync(draft)
    os.rename(draft, path)


def item_id(row: int) -> str:
    """The id of the item in a row."""
    return f"item-{row:08}"


def _early(rng: np.random.Generator, count: int, among: int) -> Rows:
    """(count, LONGEST) places in a list, early ones more often."""
    return np.asarray(rng.random((count, LONGEST)) ** 2 * among, np.int64)


def _words(rng: np.random.Generator, count: int, syllables: int) -> npt.NDArray[Any]:
    """(count,) made-up words; the longer they are, the less often one comes twice."""
    known = np.array(["".join(pair) for pair in itertools.product("bdfghklmnprstv", "aeiou")])
    words = known[rng.integers(0, len(known), count)]
    for _ in range(syllables - 1):
        words = np.char.add(words, known[rng.integers(0, len(known), count)])
    return words
