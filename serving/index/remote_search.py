"""Searches that another server answers, also for a thread that must not wait for the answers.

An index on another server is searched in one of three ways:

    by default           the caller waits for the answer
    `local_only()`       the bundle's own vectors are compared instead: no connection is opened, because
                         threads of a connection do not survive a fork
    `answered_by(...)`   for the event loop: what has been answered is used, and the first question that has
                         no answer ends the search with `SearchPending`. When the answer is there, the search
                         is made again from its start

A search is a function of its queries, of the live items and of the answers. So a search that is made again
sees one state of the live items, and no code between this module and the event loop depends on the server.

Exact comparisons with the items of such an index are made by threads of this process, which the event loop
asks as it asks the other server (`compared`).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from twinspire.protos.nearest.search import BLOCK

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Best = tuple[Rows, Vectors]  # rows and scores of one query, best first

PIECE_SECONDS = 0.25  # after which a long comparison is interrupted for that of another search
COMPARED = "compared: "  # begins the "expression" of a comparison; no other expression begins so
MIN_WIDTH = 16  # fewest items that a question asks for, so that a wider search rarely has to ask again


class ExpressionRefused(Exception):
    """The server does not take a filter's expression."""


class OutOfTime(Exception):
    """The server did not answer in a time that was too short to tell that it is down."""


class RemoteIndex(Protocol):
    """An index on another server."""

    def ask(self, vectors: Vectors, k: int, expression: str, seconds: float) -> list[Best]:
        """The `k` best items of each query (B, D) that pass the expression; for any thread.

        Raises:
            ExpressionRefused: the server does not take the expression.
            OutOfTime: it does not answer in `seconds`, which are few.
            Unavailable: it does not answer in `seconds`, or cannot.
        """


class ThreadComparison:
    """Queries compared with items in this process, on a thread; it implements `RemoteIndex`.

    Args:
        exact: gives rows and scores of the `k` nearest items of queries (B, D); for any thread.
        count: number of the items.
    """

    def __init__(self, exact: Callable[[Vectors, int], tuple[Rows, Vectors]], count: int) -> None:
        self._exact = exact
        self.count = count

    def ask(self, vectors: Vectors, k: int, expression: str, seconds: float) -> list[Best]:
        """As `RemoteIndex.ask`, without its errors.

        If the comparison takes longer than `PIECE_SECONDS`, only the first queries are answered.
        """
        until = time.monotonic() + min(seconds, PIECE_SECONDS)
        found: list[Best] = []
        for start in range(0, len(vectors), BLOCK):
            found += zip(*self._exact(vectors[start : start + BLOCK], k), strict=True)
            if time.monotonic() >= until:
                break
        return found


class Question(NamedTuple):
    """What a search asks another server, or a thread that compares.

    Args:
        remote: the index to ask.
        vectors: of the queries, float32 (B, D).
        k: items wanted.
        expression: filter that the items must pass, empty for all items; of a comparison, a text that is
            equal for the same items only.
    """

    remote: RemoteIndex | ThreadComparison
    vectors: Vectors
    k: int
    expression: str


class SearchPending(Exception):
    """A search needs an answer that is not there yet."""

    def __init__(self, question: Question) -> None:
        super().__init__("an answer of another server is missing")
        self.question = question


class Answers:
    """The answers of another server to the questions of one batch of queries.

    Args:
        batch: vectors of all its queries, float32 (B, D): a question without a filter is asked for all of
            them, so that searches of several widths take one question.
    """

    def __init__(self, batch: Vectors) -> None:
        self._batch = batch
        self._known: dict[tuple[str, bytes], tuple[int, Best]] = {}
        self._refused: set[str] = set()

    def best(
        self, index: RemoteIndex | ThreadComparison, vectors: Vectors, k: int, expression: str
    ) -> list[Best]:
        """As `RemoteIndex.ask`, from the answers that have been added.

        Raises:
            ExpressionRefused: the server does not take the expression.
            SearchPending: an answer is missing; the error has the question to ask.
        """
        if expression in self._refused:
            raise ExpressionRefused
        found: list[Best] = []
        for vector in vectors:
            width, best = self._known.get((expression, vector.tobytes()), (0, None))
            if best is None or width < k:
                break
            found.append((best[0][:k], best[1][:k]))
        else:
            return found
        wanted = vectors if expression else self._batch
        missing = [
            vector for vector in wanted if self._known.get((expression, vector.tobytes()), (0,))[0] < k
        ]
        width = max(MIN_WIDTH, 1 << (k - 1).bit_length())
        raise SearchPending(Question(index, np.stack(missing or [*vectors]), width, expression))

    def add(self, question: Question, found: list[Best]) -> None:
        """Keep the answer to a question; a comparison may have answered its first queries alone."""
        answers_all = not isinstance(question.remote, ThreadComparison)
        for vector, best in zip(question.vectors, found, strict=answers_all):
            self._known[question.expression, vector.tobytes()] = question.k, best

    def refuse(self, question: Question) -> None:
        """Note that the server does not take the expression of a question."""
        self._refused.add(question.expression)


_local: Any = threading.local()
_only_local = False


@contextmanager
def local_only() -> Iterator[None]:
    """Open no connection within the block; for a process that forks afterwards."""
    global _only_local  # noqa: PLW0603
    _only_local = True
    try:
        yield
    finally:
        _only_local = False


def is_local_only() -> bool:
    """Whether no connection may be opened now."""
    return _only_local


@contextmanager
def answered_by(answers: Answers) -> Iterator[None]:
    """Let searches of this thread within the block use these answers, and wait for no others."""
    _local.answers = answers
    try:
        yield
    finally:
        _local.answers = None


def answers_of_thread() -> Answers | None:
    """The answers that this thread searches with; None if it may wait."""
    found: Answers | None = getattr(_local, "answers", None)
    return found


def compared(
    exact: Callable[[Vectors, int], tuple[Rows, Vectors]], vectors: Vectors, k: int, count: int, items: str
) -> tuple[Rows, Vectors]:
    """Rows and scores (B, min(k, R)) of the nearest of R items; on the event loop, another thread compares.

    Args:
        exact: gives rows and scores of the nearest `k` items to some queries; for any thread.
        vectors: of the queries, float32 (B, D).
        k: items wanted.
        count: R.
        items: a text that is equal for the same items only.

    Raises:
        SearchPending: on the event loop, where they have not been compared yet.
    """
    answers, k = answers_of_thread(), min(k, count)
    if answers is None or not k or not len(vectors):
        return exact(vectors, k)
    best = answers.best(ThreadComparison(exact, count), vectors, k, COMPARED + items)
    return np.stack([rows for rows, _ in best]), np.stack([scores for _, scores in best])
