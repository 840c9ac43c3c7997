"""The workers' end: a share of the searches goes to the shadow, by queues that never block a worker."""

import logging
import math
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from random import random
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.inputs.events import item_ids, without_times
from twinspire.serving.engine.batching import Job
from twinspire.serving.retrieval.query import PreparedQuery, QueryForm
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shared_state import SHADOW_TARGET, SharedState

log = logging.getLogger(__name__)

MOST_WAITING = 4 << 20  # bytes of the searches of one worker that wait for the shadow; more are dropped
HEAD = struct.Struct("<I")  # before each search in the queue: bytes of its request
Mirrored = tuple[bytes, bytes]  # a `SearchRequest` and its `SearchResponse`, serialised


class TrafficMirror:
    """Takes a share of a worker's searches; for one thread.

    Args:
        queues: to the shadow.
        shared_state: says whether the shadow has a target.
        slot: of the worker, counted from 0.
        share: of the searches, 0 to 1.
        most: items that a request may exclude.
    """

    def __init__(
        self, queues: SharedQueues, shared_state: SharedState, slot: int, share: float, most: int
    ) -> None:
        self._queues, self._shared_state, self._slot, self._share = queues, shared_state, slot, share
        self._most = most

    def samples(self) -> bool:
        """Whether the next search is taken."""
        # `random` is seeded again in every fork.
        return random() < self._share and bool(self._shared_state.read(SHADOW_TARGET))

    def sending(self, request: wire.SearchRequest, answer: Callable[[Job], bytes]) -> Callable[[Job], bytes]:
        """`answer`, after which the request and its response are sent to the shadow."""

        def make(job: Job) -> bytes:
            response = answer(job)
            try:
                self.send(
                    without_user(request, job.prepared[0], job.retriever.query_form, self._most), response
                )
            except Exception:  # it must not fail the client's search
                log.exception("a search could not be mirrored to the shadow")
            return response

        return make

    def send(self, request: wire.SearchRequest, response: bytes) -> None:
        """Send a search and its serialised answer, or count it as dropped."""
        content = request.SerializeToString()
        self._queues.put(self._slot, b"".join((HEAD.pack(len(content)), content, response)))


def received(queues: SharedQueues, most: int) -> Iterator[Mirrored]:
    """The oldest searches that wait for the shadow, at most `most` of each worker."""
    for content in queues.take(most):
        end = HEAD.size + HEAD.unpack_from(content)[0]
        yield content[HEAD.size : end], content[end:]


def without_user(
    request: wire.SearchRequest, prepared: PreparedQuery, form: QueryForm, most: int
) -> wire.SearchRequest:
    """The search with what the user's events added to it: the shadow does not read them.

    Args:
        prepared: its query, as it was answered.
        form: of the bundle that answered.
        most: items that it may exclude.
    """
    if not request.query.HasField("user"):
        return request
    copy = wire.SearchRequest()
    copy.CopyFrom(request)
    copy.query.ClearField("user")
    copy.query.features.pop(form.history or "", None)  # the query's history has its value
    copy.exclude.extend(islice(prepared.excluded, max(0, most - len(copy.exclude))))
    history: Any = (prepared.values or {}).get(form.history or "") or ()
    copy.query.history[:] = item_ids(history)
    if form.reads_times:
        times = without_times(history)[1]
        copy.query.history_times[:] = [math.nan if each is None else each for each in times]
    return copy
