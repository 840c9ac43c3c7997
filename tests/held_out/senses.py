"""WordNet 3.0 (Miller 1995): given a sentence, which sense of which word is in it?

A query is an example sentence of a synset, an item is a synset: its words, and its definition. Verbs,
adjectives and adverbs, which hold most of the examples; without the nouns there are 35,544 items.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.held_out.packages import Package

PACKAGE = Package(
    "wordnet-base=1:3.0-39",
    "wordnet-base_1%3a3.0-39_all.deb",
    "f4f96d4d5d19061916c66cbb889a0119e6a46f9655051f5fd42b7317e46ce4db",
    ("./usr/share/wordnet/data.[av]*",),
)
EXAMPLE = re.compile(r'"([^"]+)"')
MARKER = re.compile(r"\(\w+\)$")  # of an adjective's position


def make(texts: Iterable[tuple[str, str]], folder: Path) -> None:
    """Write `synsets.csv` (item_id, text) and `examples.csv` (query, item_id, word) from the data files."""
    with (folder / "synsets.csv").open("w") as items, (folder / "examples.csv").open("w") as pairs:
        item, pair = csv.writer(items), csv.writer(pairs)
        item.writerow(("item_id", "text"))
        pair.writerow(("query", "item_id", "word"))
        for name, text in texts:
            kind = name.rpartition(".")[2]
            for offset, words, definition, examples in synsets(text):
                item.writerow((f"{kind}-{offset}", f"{', '.join(words)}: {definition}"))
                pair.writerows((each, f"{kind}-{offset}", words[0].lower()) for each in examples)


def synsets(text: str) -> Iterator[tuple[str, list[str], str, list[str]]]:
    """Offset, words, definition and examples of each synset of a data file (wndb(5WN))."""
    for line in text.splitlines():
        if line.startswith(" "):
            continue  # of the licence
        fields, _, gloss = line.partition(" | ")
        offset, _, _, count, *rest = fields.split(" ")
        words = [MARKER.sub("", each).replace("_", " ") for each in rest[: 2 * int(count, 16) : 2]]
        definition = gloss.partition('"')[0].strip(" ;")
        yield offset, words, definition, EXAMPLE.findall(gloss)
