"""How large an answer may be: estimated before the work, and checked before its bytes are put together."""

from collections.abc import Callable

from protos.errors import InvalidInput
from serving.batching import Job
from serving.limits import ASK_LESS
from serving.served import Served
from serving.unsent import UNCOUNTED

ENVELOPE_BYTES = 1024  # bytes of an answer beside its hits, at most, for one query
ENVELOPE_BYTES_EACH = 32  # the same for each query of a batch
MakeAnswer = Callable[[Job], bytes]


class AnswerBytes:
    """The bound on the bytes of one answer.

    Args:
        most: `max_answer_bytes`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_hit_bytes = most - ENVELOPE_BYTES  # hits of no more bytes make no larger answer
        # Answers with no more bytes of hits are neither too large nor counted by `Unsent`.
        self.small = min(UNCOUNTED, most) - ENVELOPE_BYTES

    def check_estimate(self, served: Served, queries: int, k: int) -> None:
        """Refuse a batch whose answer would be too large with items of average size.

        A single query is not refused by an estimate: its answer may fit.

        Raises:
            InvalidInput: the estimate is above the bound.
        """
        expected = self.expected(served, queries, k)
        if queries > 1 and expected > self._most:
            raise _too_large(f"about {expected}", self._most)

    def expected(self, served: Served, queries: int, k: int) -> int:
        """The size of an answer whose items are of average size."""
        return queries * (ENVELOPE_BYTES_EACH + min(k, served.manifest.count) * served.packed.average)

    def check_vectors(self, dimension: int, queries: int) -> int:
        """The size of an answer of `queries` vectors of float32.

        Raises:
            InvalidInput: it is above the bound.
        """
        size = queries * (ENVELOPE_BYTES_EACH + 4 * dimension)
        if size > self._most:
            raise InvalidInput(
                "queries", f"expected an answer of at most {self._most} bytes, got {size}; use fewer queries"
            )
        return size

    def checked(self, served: Served, queries: int, k: int, answer: MakeAnswer) -> MakeAnswer:
        """`answer`, with a check of its size where it can be too large.

        Args:
            served: the bundle that answers.
            queries: in the request.
            k: items for each.
            answer: makes the answer; returned unchanged where even the largest items fit.
        """
        most_hits = queries * min(k, served.manifest.count)
        if most_hits * served.packed.largest <= self._most_hit_bytes - queries * ENVELOPE_BYTES_EACH:
            return answer

        def check(job: Job) -> bytes:
            hits = sum(map(served.packed.size, job.found))
            if hits > self._most:  # known before the bytes take memory
                raise _too_large(str(hits), self._most)
            message = answer(job)
            if len(message) > self._most:
                raise _too_large(str(len(message)), self._most)
            return message

        return check


def _too_large(size: str, most: int) -> InvalidInput:
    return InvalidInput("k", f"expected an answer of at most {most} bytes, got {size}; {ASK_LESS}")
