"""Which items answers have shown to users: sent to the process of the store, off the answer path.

A worker has one such request at a time; what is shown meanwhile waits for the next one.
"""

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from threading import Timer

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import TwinspireError
from twinspire.serving.engine.batching import Job
from twinspire.serving.live.process.frames import Frame, FrameKind, StoreClient

log = logging.getLogger(__name__)

MOST_WAITING = 10_000  # answers that wait in a worker; more are dropped
MOST_SENT = 500  # of them in one request
PAUSE_SECONDS = 0.5  # after a request that was refused
MOST_IDS = 50_000  # in one request, unless one answer alone has more


class ShownItems:
    """A worker's answers to users; for the event loop's thread.

    Args:
        client: the connection to the process that stores them.
        seconds: for which they are kept.
        call_soon: calls a function soon on that thread; may itself be called on any thread.
        dropped: called with a number of answers that are not kept.
    """

    def __init__(
        self,
        client: StoreClient,
        seconds: int,
        call_soon: Callable[[Callable[[], None]], None],
        dropped: Callable[[int], None],
    ) -> None:
        self.seconds = seconds
        self._client, self._call_soon, self._dropped = client, call_soon, dropped
        self._waiting: list[tuple[str, list[str]]] = []
        self._is_sending = False

    def add(self, user: str, item_ids: list[str]) -> None:
        """Keep that an answer has shown these items to a user, or count it as dropped; never raises."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped(1)
            return
        self._waiting.append((user, item_ids))
        if not self._is_sending:
            self._send()

    def adding(
        self, messages: Sequence[wire.Query], answer: Callable[[Job], bytes]
    ) -> Callable[[Job], bytes]:
        """`answer`, after which the items that it shows to each user are kept."""

        def make(job: Job) -> bytes:
            response = answer(job)
            item_id = job.retriever.items.item_id
            for message, found in zip(messages, job.found, strict=True):
                if message.HasField("user"):
                    mixed = found.interleaved
                    if shown := mixed.item_ids if mixed else [*map(item_id, found.rows)]:
                        self.add(message.user, shown)
            return response

        return make

    def _send(self) -> None:
        sizes = accumulate(len(ids) for _, ids in self._waiting[:MOST_SENT])
        count = max(1, sum(size <= MOST_IDS for size in sizes))
        sent, self._waiting = self._waiting[:count], self._waiting[count:]
        self._is_sending = True
        payload, answered = json.dumps(sent).encode(), partial(self._answered, len(sent))
        try:
            self._client.ask(FrameKind.SHOWN, payload, answered, items=len(sent))
        except TwinspireError:  # too many requests wait
            self._dropped(len(sent))
            pause = Timer(PAUSE_SECONDS, self._call_soon, (self._resume,))
            pause.daemon = True
            pause.start()

    def _answered(self, count: int, reply: Frame | TwinspireError) -> None:
        """Take the reply to a request, on another thread."""
        self._call_soon(partial(self._done, count, isinstance(reply, TwinspireError)))

    def _done(self, count: int, has_failed: bool) -> None:
        if has_failed:
            self._dropped(count)
        self._resume()

    def _resume(self) -> None:
        self._is_sending = False
        if self._waiting:
            self._send()
