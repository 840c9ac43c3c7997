"""Generated documents: short texts in clusters, in slices, so that never all of them are in memory.

The sizes of topics follow Zipf's law (1949). Each topic has words of its own beside the common words. Every
slice has a random generator of its own, so a catalogue does not depend on how it is read.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.bundle import sync

ITEMS_A_TOPIC = 500  # on average
ZIPF = 0.7  # exponent of the topics' sizes; with 1 one topic would have a tenth of all items
OWN_WORDS = 36  # of a topic
COMMON_WORDS = 200
MIN_WORDS, MAX_WORDS = 4, 10  # words of a document, about 20 to 60 characters
SLICE = 50_000  # documents
ITEMS, QUERIES = 1, 2  # streams of random numbers, so that queries are not items


class Documents:
    """The documents of a catalogue; the number of its items decides that of the topics."""

    def __init__(self, seed: int, items: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.seed, self.items = seed, items
        self.topics = max(2, items // ITEMS_A_TOPIC)
        self.words = _words(rng, self.topics * OWN_WORDS, 3).reshape(self.topics, OWN_WORDS)
        short = [_words(rng, COMMON_WORDS // 2, syllables) for syllables in (1, 2)]
        self.common = rng.permutation(np.concatenate(short))

    def draw(self, stream: int, number: int, count: int) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Texts and topics of slice `number` of a stream; early words of a list are more frequent."""
        rng = np.random.default_rng([self.seed, stream, number])
        topics = draw_topics(rng, self.topics, count)
        lengths = rng.integers(MIN_WORDS, MAX_WORDS + 1, count)
        own = self.words[topics[:, None], _early(rng, count, OWN_WORDS)]  # (count, MAX_WORDS)
        common = self.common[_early(rng, count, COMMON_WORDS)]
        texts = [
            " ".join([*mine[: length // 2 + 1], *shared[: length - length // 2 - 1]])
            for mine, shared, length in zip(own, common, lengths, strict=True)
        ]
        return texts, topics

    def slices(self) -> Iterator[list[str]]:
        """Texts of all items in order."""
        for number, begin in enumerate(range(0, self.items, SLICE)):
            yield self.draw(ITEMS, number, min(SLICE, self.items - begin))[0]

    def write_items(self, path: Path) -> None:
        """All items as a TSV file of `item_id` and `text`, atomically."""
        draft = path.with_name(f"{path.name}.part")
        with draft.open("w", encoding="utf-8") as file:
            file.write("item_id\ttext\n")
            for row, text in enumerate(itertools.chain.from_iterable(self.slices())):
                file.write(f"item-{row:08}\t{text}\n")
        sync(draft)
        os.rename(draft, path)


def draw_topics(rng: np.random.Generator, topics: int, count: int) -> npt.NDArray[np.int64]:
    """The topic of each of `count` documents or vectors."""
    sizes = np.arange(1.0, topics + 1) ** -ZIPF
    up_to = np.cumsum(sizes) / sizes.sum()
    up_to[-1] = 1
    return np.searchsorted(up_to, rng.random(count), side="right")


def _early(rng: np.random.Generator, count: int, among: int) -> npt.NDArray[np.int64]:
    """Places in a list (count, MAX_WORDS), early ones more often."""
    return np.asarray(rng.random((count, MAX_WORDS)) ** 2 * among, np.int64)


def _words(rng: np.random.Generator, count: int, syllables: int) -> npt.NDArray[Any]:
    """Generated words (count,); long ones repeat less often."""
    known = np.array(["".join(pair) for pair in itertools.product("bdfghklmnprstv", "aeiou")])
    words = known[rng.integers(0, len(known), count)]
    for _ in range(syllables - 1):
        words = np.char.add(words, known[rng.integers(0, len(known), count)])
    return words
