"""The requests of a load test and their expected answers: what the same bundle finds in this process.

A load generator that does not compare answers would count an error or an empty answer as a fast one.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToJson

from tests.helpers.answers import hits_of
from tests.helpers.scores import Hits, difference
from tests.helpers.serving.http2 import PREFIX_BYTES, message
from tests.load.http1 import HttpPool
from tests.load.load import Requests
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.converters import fusion_to_wire, query_to_wire

SERVICE = "/retrieval.v1.Retrieval/"
BATCH = 64


class Workload:
    """Requests of some queries, and the comparison of the answers.

    Args:
        queries: to send.
        k: items in an answer.
        expected: the answer to each query, compared as `tests/helpers/scores.py` says; None compares nothing.
        fusion: which scores rank; DENSE where a server beside it knows vectors alone.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        k: int,
        expected: Sequence[Hits] | None,
        fusion: FusionMode = FusionMode.DEFAULT,
    ) -> None:
        self.checked = 0  # answers compared
        self.different = 0  # of these, how many were not as expected
        self.first = ""  # description of the first difference
        self.queries, self.k, self.is_compared = queries, k, expected is not None
        self._expected = expected or ()
        self.fusion = fusion
        self._queries = [query_to_wire(query) for query in queries]
        self._options: dict[str, Any] = {"k": k, "exclude_history": False, "fusion": fusion_to_wire(fusion)}
        self._searches = [wire.SearchRequest(query=each, **self._options) for each in self._queries]

    def searches(self, checked: bool = True) -> Requests:
        def check(number: int, body: bytes) -> None:
            self._compare(number, hits_of(wire.SearchResponse.FromString(body[PREFIX_BYTES:])))

        messages = [message(each.SerializeToString()) for each in self._searches]
        return Requests(f"{SERVICE}Search", messages, 1, check if checked and self.is_compared else None)

    def http_searches(self) -> Requests:
        """The searches of `searches` as JSON, for the gateway's path."""

        def check(number: int, body: bytes) -> None:
            hits = json.loads(body)["hits"]
            self._compare(number, [(hit["id"], hit["score"]) for hit in hits])

        as_json = partial(MessageToJson, preserving_proto_field_name=True, indent=None)
        bodies = [as_json(each).encode() for each in self._searches]
        return Requests("/v1/search", bodies, 1, check if self.is_compared else None, HttpPool)

    def batches(self, size: int) -> Requests:
        """Batches of `size` queries; queries repeat where there are fewer."""
        count = max(1, len(self._queries) // size)
        places = [[(n * size + i) % len(self._queries) for i in range(size)] for n in range(count)]

        def check(number: int, body: bytes) -> None:
            answer = wire.SearchBatchResponse.FromString(body[PREFIX_BYTES:])
            if len(answer.results) != size:
                self._note(places[number][0], f"{len(answer.results)} answers to {size} queries")
            for place, found in zip(places[number], answer.results, strict=False):
                self._compare(place, hits_of(found))

        messages = []
        for batch in places:
            queries = [self._queries[place] for place in batch]
            request = wire.SearchBatchRequest(queries=queries, **self._options)
            messages.append(message(request.SerializeToString()))
        return Requests(SERVICE + "SearchBatch", messages, size, check if self.is_compared else None)

    def _compare(self, number: int, hits: Hits) -> None:
        self.checked += 1
        if text := difference(self._expected[number], hits):
            self._note(number, text)

    def _note(self, number: int, text: str) -> None:
        self.different += 1
        self.first = self.first or f"query {number}: {text}"


def expected_answers(
    retriever: Retriever, queries: Sequence[Query], k: int, fusion: FusionMode = FusionMode.DEFAULT
) -> list[Hits]:
    """The hits that a retriever finds for each query; items of its history may be among them."""
    batches = (queries[start : start + BATCH] for start in range(0, len(queries), BATCH))
    search = partial(retriever.search, k=k, exclude_history=False, fusion=fusion)
    answers = (each for batch in batches for each in search(batch))
    return [*map(hits_of, answers)]
