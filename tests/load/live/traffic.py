"""Threads that write to a catalogue and search it, and record what they saw.

A call that fails is repeated until it succeeds, a write with its request id: so each write is acknowledged in
the end, and its sequence is known even if the answer to the first try was lost.
"""

import random
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from tests.load.live.history import Seen, Write
from tests.load.live.items import ItemMaker
from twinspire.protos.errors import Unavailable
from twinspire.serving.client import RetrievalClient

CALL_SECONDS = 10.0  # timeout of a try
GIVE_UP_SECONDS = 120.0  # of tries, after which the service counts as gone
PAUSE_SECONDS = 0.02  # between two tries
CALLS = 100  # on one connection; the next may lead to another worker
K = 10
BATCH = 5
RECENT = 5000  # written items that readers draw from

Result = TypeVar("Result")


class Operations:
    """Counts the operations of all threads, which end at `total`, but not before `release`."""

    def __init__(self, total: int) -> None:
        self._total, self._is_held, self._lock = total, True, threading.Lock()
        self.done = 0
        self.failed_tries = 0  # calls that were repeated, beside those that gRPC repeats by itself
        self.error: BaseException | None = None  # with which a thread has ended; the others end, too
        self.is_stopped = False

    def take(self) -> bool:
        """Whether a thread shall do one more."""
        with self._lock:
            is_over = self.is_stopped or (self.done >= self._total and not self._is_held)
            self.done += not is_over
            return not is_over

    def count_failed_try(self) -> None:
        """Count a call that failed and is repeated; from any thread."""
        with self._lock:
            self.failed_tries += 1

    def release(self) -> None:
        """Let the threads end at the total."""
        self._is_held = False

    def stop(self, error: BaseException | None = None) -> None:
        with self._lock:
            self.error = self.error or error
            self.is_stopped = True


class Traffic:
    """Threads that write, one in three, and threads that search.

    While a process is killed, the writing threads repeat their calls, and the searching threads continue.

    Args:
        addresses: of services with one catalogue; each connection is to one of them.
        base_ids: items that came with the bundle, some of which are replaced and deleted.
        items: different ids that are written, beside `base_ids`.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        maker: ItemMaker,
        base_ids: Sequence[str],
        operations: Operations,
        threads: int,
        items: int,
        seed: int,
    ) -> None:
        self.writes: list[Write] = []  # that were acknowledged
        self.seen: list[Seen] = []
        self.versions: set[str] = set()  # of the bundles that answered
        self.operations = operations
        self._lock = threading.Lock()
        self._addresses, self._maker = addresses, maker
        self._ids = [*base_ids, *(f"live-{n}" for n in range(items))]
        self._recent: deque[tuple[str, str, int]] = deque(maxlen=RECENT)  # id, text, sequence of upserts
        self._latest = 0  # largest sequence that was acknowledged
        runs = (self._search if n % 3 else self._write for n in range(threads))
        self._threads = [
            threading.Thread(target=self._run, args=(run, seed * 1000 + n), daemon=True)
            for n, run in enumerate(runs)
        ]

    def __enter__(self) -> "Traffic":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self.operations.stop()
        for each in self._threads:
            each.join()

    def check(self) -> None:
        """Raise the error with which a thread has ended."""
        if self.operations.error is not None:
            raise self.operations.error

    @property
    def is_running(self) -> bool:
        """Whether operations are left."""
        return any(each.is_alive() for each in self._threads)

    def _run(self, operation: Callable[["_Connection", random.Random], None], seed: int) -> None:
        """Write, or search, until all is done."""
        draw = random.Random(seed)
        try:
            with closing(_Connection(self._addresses, draw, self.operations)) as connection:
                while self.operations.take():
                    operation(connection, draw)
        except BaseException as error:
            self.operations.stop(error)

    def _write(self, connection: "_Connection", draw: random.Random) -> None:
        """An upsert or a delete of one item, or of a batch."""
        request_id, kind = str(uuid.uuid4()), draw.random()
        ids = draw.sample(self._ids, BATCH if kind < 0.1 or kind > 0.95 else 1)
        stamps: Sequence[str | None] = [None] * len(ids)
        if kind < 0.7:
            with self._lock:
                stamps = texts = [self._maker.text() for _ in ids]
            items = [self._maker.item(*each) for each in zip(ids, texts, strict=True)]
            written = connection.call(lambda client: client.upsert(items, request_id=request_id))
        else:
            written = connection.call(lambda client: client.delete(ids, request_id=request_id))
        with self._lock:
            for result, stamp in zip(written.results, stamps, strict=True):
                self.writes.append(Write(result.sequence, result.id, stamp))
                if stamp is not None:
                    self._recent.append((result.id, stamp, result.sequence))
            self._latest = max(self._latest, written.sequence)

    def _search(self, connection: "_Connection", draw: random.Random) -> None:
        """A search for an item's own text, after its write or after the latest one."""
        with self._lock:
            item_id, text, sequence = draw.choice(self._recent) if self._recent else ("", "", 0)
            # 40 % must see the item's write, 40 % the latest write, and 20 % none.
            asked = draw.choices((sequence, self._latest, 0), (0.4, 0.4, 0.2))[0]
            text = text or self._maker.text()
        if draw.random() < 0.05:
            batch = [text] * BATCH
            found = connection.call(lambda client: client.search_batch(batch, K, min_sequence=asked))
        else:
            found = [connection.call(lambda client: client.search(text, K, min_sequence=asked))]
        for answer in found:
            hits = tuple((hit.id, sys.intern(self._maker.stamp(hit.fields))) for hit in answer.hits)
            with self._lock:
                self.seen.append(Seen(asked, answer.sequence, K, hits, item_id, text))
                self.versions.add(answer.bundle_version)


class _Connection:
    """A client that connects anew after some calls, and repeats calls that fail."""

    def __init__(self, addresses: Sequence[str], draw: random.Random, operations: Operations) -> None:
        self._addresses, self._draw, self._operations = addresses, draw, operations
        self._client: RetrievalClient | None = None
        self._left = 0

    def call(self, function: Callable[[RetrievalClient], Result]) -> Result:
        """The result of a call, which may fail for `GIVE_UP_SECONDS`."""
        until = time.monotonic() + GIVE_UP_SECONDS
        while True:
            if self._client is None or self._left == 0:
                self.close()
                self._client = RetrievalClient(self._draw.choice(self._addresses), CALL_SECONDS)
                self._left = CALLS
            self._left -= 1
            try:
                return function(self._client)
            except Unavailable:
                if time.monotonic() > until or self._operations.is_stopped:
                    raise
            self._operations.count_failed_try()
            self.close()
            time.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
