"""The bound on the bytes of one answer."""

from collections.abc import Sequence

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.serving.engine.batching import Job
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.served_log.sampling import MakeAnswer
from twinspire.serving.wire.converters import ASK_LESS

ENVELOPE_BYTES = 1024  # most bytes of an answer to one query besides its hits
ENVELOPE_BYTES_EACH = 32  # most bytes of a query's part of a batch's answer besides its hits
SCORED_BYTES = 20  # most bytes of an item's score besides its id
PROPENSITY_BYTES = 8  # of a hit of an explored answer


class AnswerBytes:
    """The bound on the bytes of one answer: estimated before the search, checked before the bytes are joined.

    Args:
        most: `max_answer_bytes`.
        explores: whether answers may be explored, and have a propensity for each hit.
    """

    def __init__(self, most: int, explores: bool = False) -> None:
        self._most = most
        self._more = PROPENSITY_BYTES if explores else 0  # bytes of each hit
        self._max_hit_bytes = most - ENVELOPE_BYTES  # an answer with no more bytes of hits is not too large

    def check_estimate(self, bundle: LoadedBundle, queries: int, k: int) -> None:
        """Refuse a batch whose answer would be too large with items of average size.

        A single query is not refused by an estimate, because its answer may fit.

        Raises:
            InvalidInput: the estimate is above the bound.
        """
        expected = self.expected(bundle, queries, k)
        if queries > 1 and expected > self._most:
            raise _too_large(f"about {expected}", self._most)

    def expected(self, bundle: LoadedBundle, queries: int, k: int) -> int:
        """The bytes of an answer with items of average size."""
        hit = bundle.responses.average + self._more
        return queries * (ENVELOPE_BYTES_EACH + min(k, len(bundle.responses)) * hit)

    def check_vectors(self, dimension: int, count: int, name: str = "queries") -> int:
        """The bytes of an answer of `count` vectors of float32; `name` is `queries` or `items`.

        Raises:
            InvalidInput: they are above the bound.
        """
        return self._fitting(count * (ENVELOPE_BYTES_EACH + 4 * dimension), f"use fewer {name}", name)

    def check_scores(self, asked: Sequence[wire.QueryItems]) -> int:
        """The bytes of an answer with the scores of these items, at most.

        Raises:
            InvalidInput: they are above the bound.
        """
        ids = sum(len(item_id.encode()) for each in asked for item_id in each.item_ids)
        size = ENVELOPE_BYTES + len(asked) * ENVELOPE_BYTES_EACH
        size += ids + SCORED_BYTES * sum(len(each.item_ids) for each in asked)
        return self._fitting(size, "use several calls")

    def _fitting(self, size: int, advice: str, name: str = "queries") -> int:
        """The size of an answer, unless it is above the bound."""
        if size > self._most:
            found = f"expected an answer of at most {self._most} bytes, got {size}; {advice}"
            raise InvalidInput(name, found)
        return size

    def checked(self, bundle: LoadedBundle, queries: int, k: int, answer: MakeAnswer) -> MakeAnswer:
        """`answer` with a check of its size, or `answer` itself if even the largest items fit.

        Args:
            bundle: that answers.
            queries: in the request.
            k: items for each query.
            answer: makes the answer of a finished job.
        """
        max_hits = queries * min(k, len(bundle.responses))
        largest = bundle.responses.largest + self._more
        if max_hits * largest <= self._max_hit_bytes - queries * ENVELOPE_BYTES_EACH:
            return answer

        def check(job: Job) -> bytes:
            hits = sum(map(bundle.responses.size, job.found))
            if hits > self._most:  # before the bytes take memory
                raise _too_large(str(hits), self._most)
            message = answer(job)
            if len(message) > self._most:
                raise _too_large(str(len(message)), self._most)
            return message

        return check


def _too_large(size: str, most: int) -> InvalidInput:
    return InvalidInput("k", f"expected an answer of at most {most} bytes, got {size}; {ASK_LESS}")
