"""Makes live items.

An item's text is its own, and also its stamp, the value of a display field: an answer tells which version of
the item it shows.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from protos.bundle import Manifest, read_manifest
from protos.errors import MissingStage
from protos.features import TextFeature
from serving.client import Item
from serving.retrieval.catalogue import Catalogue

WORDS = 12  # of a text, unless the towers read fewer characters
TRIES = 1000  # draws of a text
MOST_SHARE = 0.5  # of a bundle's items that are deleted at most


class ItemMaker:
    """Makes items for a bundle whose items and queries are texts, of the words of its examples.

    Raises:
        MissingStage: items or queries are no texts, there is no display field, or the examples have too few
            words.
    """

    def __init__(self, manifest: Manifest, seed: int = 0) -> None:
        queries, items = ([*side.values()] for side in (manifest.schema.query, manifest.schema.item))
        texts = [name for name, spec in manifest.schema.item.items() if isinstance(spec, TextFeature)]
        asked = [name for name, spec in manifest.schema.query.items() if isinstance(spec, TextFeature)]
        if not texts or not asked or not manifest.display_fields:
            raise MissingStage(
                f"{manifest.name}: the live test takes a bundle whose queries and items are texts and whose "
                "answers show a field"
            )
        self._feature, self._field = texts[0], manifest.display_fields[0]
        self._length = min(spec.longest for spec in (*queries, *items) if isinstance(spec, TextFeature))
        self._words = sorted(
            {word for each in manifest.examples for word in str(each.get(asked[0]) or "").split()}
        )
        if len(self._words) < WORDS:
            raise MissingStage(
                f"{manifest.name}: its examples have {len(self._words)} words, too few for texts"
            )
        self._random = random.Random(seed)
        self._texts: set[str] = set()

    def item(self, item_id: str, text: str) -> Item:
        """An item whose text is also its stamp."""
        return Item(item_id, {self._feature: text}, {self._field: text})

    def text(self) -> str:
        """A text that no other item has: words in random order, as many as both towers read.

        Raises:
            MissingStage: 1,000 draws gave no new text, because the towers read too few characters.
        """
        for _ in range(TRIES):
            kept = ""
            for word in self._random.sample(self._words, WORDS):
                if len(kept) + 1 + len(word) > self._length:
                    break
                kept = f"{kept} {word}".strip()
            if kept and kept not in self._texts:
                self._texts.add(kept)
                return kept
        raise MissingStage(f"texts of {self._length} characters are too short: {len(self._texts)} were made")

    def stamp(self, fields: Mapping[str, str]) -> str:
        """The stamp that a hit shows."""
        return fields.get(self._field, "")


def shared_ids(folders: Sequence[Path], most: int, share: float = MOST_SHARE) -> list[str]:
    """Ids of items that all bundles hold, evenly spread: up to `most`, and up to a share of them."""
    catalogues = [Catalogue(each, read_manifest(each)).ids for each in folders]
    both = sorted(set.intersection(*map(set, catalogues)))
    count = min(most, int(share * len(both)))
    return both[:: max(1, len(both) // max(1, count))][:count]
