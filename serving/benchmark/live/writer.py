"""Writes live items in a process of its own, since a load generator needs its interpreter for itself.

    python -m serving.benchmark.live.writer ADDRESS BUNDLE SEED

The process prints `{}` when it is ready. Then it reads commands from standard input, each a line
`[name, arguments...]`, and answers each with a line of JSON: what the method of that name returns.
"""

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from protos.bundle import read_manifest
from serving.benchmark.live.items import ItemMaker
from serving.benchmark.services import CoreSet, Service, report_ready, started
from serving.client import Item, RetrievalClient

CALL_SECONDS = 60.0  # timeout of a call
END: Any = object()  # after the last due time
BATCH = 100  # items in a call of `fill`


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
        """Write single items at a rate; they replace items 0 to `items` - 1 over and over.

        The seconds of a call are counted from when it was due.
        """
        begun = time.perf_counter()
        return self._calls(
            1, threads, (begun + n / per_second for n in range(int(per_second * seconds))), items
        )

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
        """Items with new texts."""
        texts = {f"live-{n}": self._maker.text() for n in numbers}
        self._texts.update(texts)
        return [self._maker.item(*each) for each in texts.items()]


def writing(service: Service, folder: Path, cores: CoreSet, seed: int) -> AbstractContextManager[Service]:
    """Start the process, which writes to a service."""
    arguments = (service.address, str(folder.absolute()), str(seed))
    return started("writer", "serving.benchmark.live.writer", *arguments, cores=cores)


def main(arguments: Sequence[str]) -> None:
    """Run the process."""
    address, folder, seed = arguments
    writer = Writer(address, Path(folder), int(seed))
    methods: tuple[Callable[..., Any], ...] = (writer.fill, writer.batches, writer.rate)
    commands = {each.__name__: each for each in methods}
    report_ready()
    for line in sys.stdin:
        name, *values = json.loads(line)
        report_ready(**commands[name](*values))


if __name__ == "__main__":
    main(sys.argv[1:])
