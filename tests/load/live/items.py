"""Makes live items, and writes them in a process of its own: a load generator needs its interpreter alone.

    python -m tests.load.live.items ADDRESS BUNDLE SEED

The process prints `{}` when it is ready. Then it reads commands from standard input, each a line
`[name, arguments...]`, and answers each with a line of JSON: what `Writer`'s method of that name returns.

An item's text is its own, and also its stamp, the value of a display field: an answer tells which version of
the item it shows.
"""

import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.load.services import CoreSet, Service, report_ready, started
from twinspire.protos.bundle import Manifest, read_manifest
from twinspire.protos.errors import MissingStage
from twinspire.protos.features import TextFeature
from twinspire.serving.client import Item, RetrievalClient
from twinspire.serving.segments.catalogue import Catalogue

WORDS = 12  # of a text, unless the towers read fewer characters
TRIES = 1000  # draws of a text
MAX_SHARE = 0.5  # of a bundle's items that are deleted at most
CALL_SECONDS = 60.0  # timeout of a call
BATCH = 100  # items in a call of `fill`
END: Any = object()  # after the last due time


class ItemMaker:
    """Makes items for a bundle whose items and queries are texts, of the words of its examples.

    Raises:
        MissingStage: items or queries are no texts, there is no display field, or the examples have too few
            words.
    """

    def __init__(self, manifest: Manifest, seed: int = 0) -> None:
        asked, texts = (
            {name: spec for name, spec in side.items() if isinstance(spec, TextFeature)}
            for side in (manifest.schema.query, manifest.schema.item)
        )
        if not texts or not asked or not manifest.display_fields:
            raise MissingStage(
                f"{manifest.name}: the live test takes a bundle whose queries and items are texts and whose "
                "answers show a field"
            )
        self._feature, self._field = next(iter(texts)), manifest.display_fields[0]
        self._length = min(spec.longest for spec in (*asked.values(), *texts.values()))
        examples = [str(each.get(next(iter(asked))) or "") for each in manifest.examples]
        self._words = sorted({word for text in examples for word in text.split()})
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
        return fields.get(self._field, "")


def shared_ids(folders: Sequence[Path], most: int, share: float = MAX_SHARE) -> list[str]:
    """Ids of items that all bundles hold, evenly spread: up to `most`, and up to a share of them."""
    catalogues = [Catalogue(each, read_manifest(each)).ids for each in folders]
    both = sorted(set.intersection(*map(set, catalogues)))
    count = min(most, int(share * len(both)))
    return both[:: max(1, len(both) // max(1, count))][:count]


class Writer:
    """Writes items of a bundle: item n has the id `live-n` and, until it is written again, text n."""

    def __init__(self, address: str, folder: Path, seed: int) -> None:
        self._address = address
        self._maker = ItemMaker(read_manifest(folder), seed)
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}

    def fill(self, count: int, deleted: Sequence[str]) -> dict[str, Any]:
        """Write items 0 to `count` - 1, and delete others; gives the `texts` of all items by id."""
        with RetrievalClient(self._address, CALL_SECONDS) as client:
            for start in range(0, count, BATCH):
                client.upsert(self._items(range(start, min(start + BATCH, count))))
            for start in range(0, len(deleted), BATCH):
                client.delete(deleted[start : start + BATCH])
        return {"texts": self._texts}

    def batches(self, size: int, seconds: float, threads: int, items: int) -> dict[str, Any]:
        """Write batches of `size` one after the other on each thread, for some seconds.

        They replace items 0 to `items` - 1 over and over; `size` is at most `items`.
        """
        until = time.perf_counter() + seconds
        at_once = itertools.takewhile(lambda _: time.perf_counter() < until, itertools.repeat(None))
        return self._calls(size, threads, at_once, items)

    def rate(self, per_second: float, seconds: float, threads: int, items: int) -> dict[str, Any]:
        """Write single items at a rate, over and over; a call's seconds count from when it was due."""
        begun = time.perf_counter()
        dues = (begun + n / per_second for n in range(int(per_second * seconds)))
        return self._calls(1, threads, dues, items)

    def _calls(self, size: int, threads: int, dues: Iterator[float | None], items: int) -> dict[str, Any]:
        """Write batches, each at its time on the clock of `perf_counter`; None is at once.

        Returns:
            `seconds`, the `items` that were written, and in `calls` the seconds of each call.
        """
        begun = time.perf_counter()
        latencies: list[float] = []
        numbers, has_failed = itertools.count(), threading.Event()

        def run() -> None:
            with RetrievalClient(self._address, CALL_SECONDS) as client:
                while not has_failed.is_set():
                    with self._lock:
                        due = next(dues, END)
                        if due is END:
                            return
                        made = self._items([next(numbers) % items for _ in range(size)])
                    start = time.perf_counter() if due is None else due
                    time.sleep(max(0.0, start - time.perf_counter()))
                    try:
                        client.upsert(made)
                    except BaseException:
                        has_failed.set()
                        raise
                    with self._lock:
                        latencies.append(time.perf_counter() - start)

        with ThreadPoolExecutor(threads) as pool:
            for each in [pool.submit(run) for _ in range(threads)]:
                each.result()
        return {"seconds": time.perf_counter() - begun, "items": size * len(latencies), "calls": latencies}

    def _items(self, numbers: Sequence[int]) -> list[Item]:
        texts = {f"live-{n}": self._maker.text() for n in numbers}
        self._texts.update(texts)
        return [self._maker.item(*each) for each in texts.items()]


def writing(service: Service, folder: Path, cores: CoreSet, seed: int) -> AbstractContextManager[Service]:
    """Start the process, which writes to a service."""
    arguments = (service.address, str(folder.absolute()), str(seed))
    return started("writer", "tests.load.live.items", *arguments, cores=cores)


def main(arguments: Sequence[str]) -> None:
    address, folder, seed = arguments
    writer = Writer(address, Path(folder), int(seed))
    commands = {each.__name__: each for each in (writer.fill, writer.batches, writer.rate)}
    report_ready()
    for line in sys.stdin:
        name, *values = json.loads(line)
        report_ready(**commands[name](*values))


if __name__ == "__main__":
    main(sys.argv[1:])
