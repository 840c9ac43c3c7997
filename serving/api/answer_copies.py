"""Copies of answers, made after each: for the shadow, and of the items that were shown to users."""

import logging
import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.inputs.events import item_ids, without_times
from twinspire.serving.engine.batching import Job
from twinspire.serving.retrieval.query import PreparedQuery, QueryForm

log = logging.getLogger(__name__)

MakeAnswer = Callable[[Job], bytes]


def mirrored(
    request: wire.SearchRequest, answer: MakeAnswer, take: Callable[[Any, bytes], None], most: int
) -> MakeAnswer:
    """`answer`, followed by a call of `take` with the request and the response.

    Args:
        most: items that a request may exclude.
    """

    def make(job: Job) -> bytes:
        response = answer(job)
        try:
            mirrored = without_user(request, job.prepared[0], job.retriever.query_form, most)
            take(mirrored, response)
        except Exception:  # it must not fail the client's search
            log.exception("a search could not be mirrored to the shadow")
        return response

    return make


def noted(
    answer: MakeAnswer, messages: Sequence[wire.Query], add: Callable[[str, list[str]], None]
) -> MakeAnswer:
    """`answer`, followed by a call of `add` with each user and the ids of the items that the answer shows."""

    def make(job: Job) -> bytes:
        response = answer(job)
        ids = job.retriever.items.ids
        for message, found in zip(messages, job.found, strict=True):
            if message.HasField("user"):
                mixed = found.interleaved
                if shown := mixed.item_ids if mixed else [ids[row] for row in found.rows]:
                    add(message.user, shown)
        return response

    return make


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
