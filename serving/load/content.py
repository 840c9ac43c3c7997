"""Whether the answers are right: they must hold what the same bundle finds in this process, without a server.

A load generator that does not look takes an error, or an empty answer, for a quick one.
"""

from collections.abc import Sequence

from protos import retrieval_pb2 as wire
from protos.scores import Hits, difference
from serving.convert import query_to_wire
from serving.load import frames
from serving.load.measured import Requests
from serving.query import Query
from serving.retriever import Retriever

PATH = "/retrieval.v1.Retrieval/"
BATCH = 64


class Content:
    """Expected answers, and how many of those that came were looked at and found to be others.

    Args:
        expected: the answer to each query, compared as `protos/scores.py` says. None if no answer is known;
            nothing is compared then.
        queries: all that are asked.
        k: items in an answer.

    Attributes:
        checked: answers that were looked at.
        different: of them, those that were not as expected.
        first: what the first of those was.
    """

    def __init__(self, queries: Sequence[Query], k: int, expected: Sequence[Hits] | None) -> None:
        self.checked = self.different = 0
        self.first = ""
        self._expected = expected
        self._k = k
        self._queries = [query_to_wire(query) for query in queries]

    @property
    def is_compared(self) -> bool:
        """Whether answers are compared with expected ones."""
        return self._expected is not None

    @property
    def distinct(self) -> int:
        """Different queries."""
        return len(self._queries)

    def searches(self, method: str = "Search") -> Requests:
        """A request of each query; `SearchStream` takes the same."""
        messages = [frames.message(self._search(query)) for query in self._queries]
        check = None if self._expected is None else self._check_search
        return Requests(PATH + method, messages, 1, check)

    def unchecked(self) -> Requests:
        """The same, for a server that answers something else."""
        return Requests(PATH + "Search", [frames.message(self._search(query)) for query in self._queries])

    def batches(self, size: int) -> Requests:
        """Requests of so many queries each, all of them in turn; few queries are asked more than once."""
        count = max(1, len(self._queries) // size)
        places = [[(n * size + i) % len(self._queries) for i in range(size)] for n in range(count)]
        messages = [
            wire.SearchBatchRequest(queries=[self._queries[place] for place in batch], k=self._k)
            for batch in places
        ]

        def check(number: int, body: bytes) -> None:
            answer = wire.SearchBatchResponse.FromString(body[5:])
            if len(answer.results) != size:
                self._note(places[number][0], f"{len(answer.results)} answers to {size} queries")
            for place, found in zip(places[number], answer.results, strict=False):
                self._compare(place, [(hit.id, hit.score) for hit in found.hits])

        parts = [frames.message(each.SerializeToString()) for each in messages]
        return Requests(PATH + "SearchBatch", parts, size, None if self._expected is None else check)

    def _search(self, query: wire.Query) -> bytes:
        return wire.SearchRequest(query=query, k=self._k).SerializeToString()

    def _check_search(self, number: int, body: bytes) -> None:
        answer = wire.SearchResponse.FromString(body[5:])
        self._compare(number, [(hit.id, hit.score) for hit in answer.hits])

    def _compare(self, number: int, found: Hits) -> None:
        self.checked += 1
        assert self._expected is not None
        wrong = difference(self._expected[number], found)
        if wrong:
            self._note(number, wrong)

    def _note(self, number: int, text: str) -> None:
        self.different += 1
        self.first = self.first or f"query {number}: {text}"


def expected(retriever: Retriever, queries: Sequence[Query], k: int) -> list[Hits]:
    """What a retriever finds for each query."""
    answers: list[Hits] = []
    for start in range(0, len(queries), BATCH):
        found = retriever.search(queries[start : start + BATCH], k)
        answers += [[(hit.id, hit.score) for hit in answer.hits] for answer in found]
    return answers
