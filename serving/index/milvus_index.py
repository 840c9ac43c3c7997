"""The vectors of a bundle in a collection on a Milvus server.

Queries are encoded here and searched there. The service keeps what it needs of the items: ids, display
fields, filter columns, and the vectors, which are mapped from the bundle's file and read for exact scores,
for items as queries, and where few items pass a filter. Other threads make exact comparisons, and the
event loop answers other calls meanwhile. The event loop itself reads the vectors of single items: for
`Score`, for an item as the query, and for BM25's candidates.

A collection never changes after it was checked, so every answer has to see what was written before the check.
Searches pass a timestamp that the server gave after the check: they are strongly consistent, without the wait
for the server's next clock tick (200 ms) that a search at the level "Strong" takes.
"""

import hashlib
import logging
import threading
from pathlib import Path

import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import Unavailable
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.vectors import vectors_of
from twinspire.protos.vector_databases.milvus import CONNECT_SECONDS, MAX_K, import_client
from twinspire.serving.filters.passing_rows import PassingRows
from twinspire.serving.index import remote_search
from twinspire.serving.index.milvus_collection import MilvusCollection, check, check_apart
from twinspire.serving.index.milvus_filter import milvus_expression
from twinspire.serving.index.remote_search import Best, ExpressionRefused, OutOfTime, compared
from twinspire.serving.index.vector_index import (
    ExactIndex,
    Neighbours,
    Rows,
    Vectors,
)

log = logging.getLogger(__name__)

SECONDS = 5.0  # time limit of a search that has no deadline
# The server is not asked if at most FEW times `k` items pass, or the collection has at most MANY times `k`.
FEW, MANY = 40, 512


class MilvusIndex(ExactIndex):
    """A collection on a Milvus server; safe to call from several threads.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: there is no such collection, or it is not the bundle's.
        ConfigError: the environment does not name the server.
        PackageMissing: the extra `milvus` is not installed.
        Unavailable: the server does not answer.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        # Without codes, so that vectors that are not read stay on the disk.
        self._coded = CodedVectors(vectors_of(folder, manifest), has_codes=False)
        self._filters = manifest.filters
        self.collection = MilvusCollection(manifest)
        if remote_search.is_local_only():
            check_apart(folder)
            import_client()  # once, and not by a worker's first search
        else:
            check(self.collection, folder, manifest)

    def after_fork(self) -> None:
        """Connect in the background, so that the first searches have their whole time."""
        threading.Thread(target=self._connect, name="milvus-connect", daemon=True).start()

    def _connect(self) -> None:
        try:
            self.collection.connected(CONNECT_SECONDS)
        except (OutOfTime, Unavailable) as error:
            log.warning("%s; the next search tries again", error)

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `min(k, N)` items nearest to each query of the query tower, float32 (B, D)."""
        k = min(k, self.count)
        if k > MAX_K:
            return self.exact(vectors, k)
        best = self._best(vectors, k, "")
        if best is None:
            return self.exact(vectors, k)
        short = [n for n, (rows, _) in enumerate(best) if len(rows) < k]
        if short:  # the server's graph reaches fewer items
            rows, scores = self.exact(vectors[short], k)
            for n, own, own_scores in zip(short, rows, scores, strict=True):
                best[n] = own, own_scores
        return Neighbours(np.stack([rows for rows, _ in best]), np.stack([scores for _, scores in best]))

    def search_filtered(self, vectors: Vectors, k: int, passing: PassingRows) -> Neighbours | None:
        """As `VectorIndex.search_filtered`: each answer is checked with the service's own filter columns."""
        k = min(k, passing.count)
        held = self.collection.fields
        if k > MAX_K or held is None or passing.count <= FEW * k or self.count <= MANY * k:
            return None
        expression = milvus_expression(passing.expression, self._filters, held)
        if expression is None:
            return None
        try:
            best = self._best(vectors, k, expression)
        except ExpressionRefused:
            log.warning("Milvus does not take a filter, which is evaluated here")
            return None
        if best is None:
            return None
        wrong = [n for n, (rows, _) in enumerate(best) if len(rows) < k or not passing.mask[rows].all()]
        if wrong:
            exact = self.exact(vectors[wrong], k, passing.rows)
            for n, own, own_scores in zip(wrong, exact.rows, exact.scores, strict=True):
                best[n] = own, own_scores
        return Neighbours(np.stack([rows for rows, _ in best]), np.stack([scores for _, scores in best]))

    def exact(self, vectors: Vectors, k: int, rows: Rows | None = None) -> Neighbours:
        """As `ExactIndex.exact`; on the event loop's thread, the comparison is left to another thread."""

        def compare(some: Vectors, width: int) -> Neighbours:
            return ExactIndex.exact(self, some, width, rows)

        if remote_search.answers_of_thread() is None:
            return compare(vectors, k)
        count = self.count if rows is None else len(rows)
        return Neighbours(*compared(compare, vectors, k, count, "all" if rows is None else _digest(rows)))

    def _best(self, vectors: Vectors, k: int, expression: str) -> list[Best] | None:
        """The best items of each query by the server; None within `local_only`."""
        answers = remote_search.answers_of_thread()
        if answers is not None:
            return answers.best(self.collection, vectors, k, expression)
        if remote_search.is_local_only():
            return None
        try:
            return self.collection.ask(vectors, k, expression, SECONDS)
        except OutOfTime as error:  # another thread still connects
            raise Unavailable(str(error)) from None


def _digest(rows: Rows) -> str:
    """A hash of rows, as a text."""
    return hashlib.blake2b(rows.tobytes(), digest_size=32).hexdigest()
