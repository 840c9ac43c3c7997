"""Queries in, answers out: a bundle at work, without a transport.

retriever = Retriever.load(Path(".cache/bundles/3f2a9c0d1e5b"))
(answer,) = retriever.search([Query(text="eigenvalues of a symmetric matrix")], k=10)
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protos import bundle
from protos.bundle import Manifest
from protos.errors import BundleDamaged, InvalidInput
from protos.features import TextFeature
from serving.answer import Answer, Hit, Timing
from serving.catalogue import Catalogue
from serving.encoder import Encoder
from serving.index import Index
from serving.query import Query, check_item_query, example_query, text_feature, tower_values


@dataclass(frozen=True)
class Encoded:
    """Queries that have become vectors.

    Args:
        vectors: float32 (B, D), of unit length.
        own_rows: for each query, the row of the item that it is, None where it is not one.
        encode_us: microseconds that this took.
    """

    vectors: npt.NDArray[np.float32]
    own_rows: tuple[int | None, ...]
    encode_us: int


class Retriever:
    """Answers queries from one bundle; safe to call from several threads. Made by `load`."""

    def __init__(self, manifest: Manifest, encoder: Encoder, index: Index, catalogue: Catalogue) -> None:
        self.manifest = manifest
        self.catalogue = catalogue
        self._encoder = encoder
        self._index = index
        self._features = manifest.schema.query
        self._text = text_feature(self._features)

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "Retriever":
        """A bundle, verified file by file before anything of it is used, and warmed up.

        Args:
            folder: of the bundle.
            threads: that the query tower may use inside one call.

        Raises:
            BundleDamaged: a file is missing, altered, or does not fit the others.
            BundleTooNew, BundleTooOld: the bundle was written by another version of this program.
        """
        manifest = bundle.read(folder)
        retriever = cls(
            manifest,
            Encoder(folder, manifest, threads),
            Index(folder, manifest),
            Catalogue(folder, manifest),
        )
        retriever._warm_up(folder)
        return retriever

    def search(self, queries: Sequence[Query], k: int, exclude: Collection[str] = ()) -> list[Answer]:
        """The `k` nearest items for each query, or all where the catalogue has fewer.

        Args:
            queries: at least one.
            k: at least 1.
            exclude: item ids that must not be in any answer; unknown ones exclude nothing.

        Raises:
            InvalidInput: a query does not fit the bundle; the field is `queries[<n>].<field>`.
            UnknownItem: so is an `item_id` that the catalogue does not hold.
        """
        return self.nearest(self.encode(queries), k, exclude)

    def encode(self, queries: Sequence[Query], names: Sequence[str] = ()) -> Encoded:
        """Queries as unit vectors; that of an item where the query is an `item_id`.

        Args:
            queries: at least one.
            names: what an error calls each query; `queries[0]`, `queries[1]`... if not given.

        Raises:
            InvalidInput: a query does not fit the bundle; the field begins with its name.
            UnknownItem: an `item_id` that the catalogue does not hold.
        """
        started = time.perf_counter_ns()
        names = names or [f"queries[{n}]" for n in range(len(queries))]
        if not queries:
            raise InvalidInput("queries", "expected at least one")
        vectors = np.empty((len(queries), self.manifest.dimension), np.float32)
        own_rows = [self._own_row(*each) for each in zip(queries, names, strict=True)]
        for n, row in enumerate(own_rows):
            if row is not None:
                vectors[n] = self._index.vectors[row]
        raw = [n for n, row in enumerate(own_rows) if row is None]
        if raw:
            vectors[raw] = self._encode_raw([queries[n] for n in raw], [names[n] for n in raw])
        return Encoded(vectors, tuple(own_rows), _microseconds_since(started))

    def nearest(self, encoded: Encoded, k: int, exclude: Collection[str] = ()) -> list[Answer]:
        """The second half of `search`."""
        started = time.perf_counter_ns()
        if k < 1:
            raise InvalidInput("k", f"expected at least 1, got {k}")
        excluded = self.catalogue.rows(exclude)
        # One to spare for a query that is itself an item, even where none is: what else is in its
        # batch must not change how far the search for a query looks.
        rows, scores = self._index.search(encoded.vectors, k + len(excluded) + 1)
        hits = [
            self._hits(found, cosines, excluded if own is None else excluded | {own}, k)
            for found, cosines, own in zip(rows.tolist(), scores.tolist(), encoded.own_rows, strict=True)
        ]
        timing = Timing(encode_us=encoded.encode_us, search_us=_microseconds_since(started))
        return [Answer(each, self.manifest.bundle_version, timing) for each in hits]

    def _own_row(self, query: Query, name: str) -> int | None:
        if query.item_id is None:
            return None
        check_item_query(query, name)
        return self.catalogue.row(query.item_id, f"{name}.item_id")

    def _encode_raw(self, queries: Sequence[Query], names: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = [tower_values(query, self._features, name) for query, name in zip(queries, names, strict=True)]
        return self._encoder.encode(rows, names)

    def _hits(
        self, rows: list[int], scores: list[float], excluded: Collection[int], k: int
    ) -> tuple[Hit, ...]:
        kept = [(row, score) for row, score in zip(rows, scores, strict=True) if row not in excluded][:k]
        catalogue = self.catalogue
        return tuple(Hit(catalogue.ids[row], score, catalogue.fields(row)) for row, score in kept)

    def _warm_up(self, folder: Path) -> None:
        """Answer a query before anyone asks one, so that the first is as fast as the rest."""
        blank = {name: "" for name, spec in self._features.items() if isinstance(spec, TextFeature)}
        examples = [example_query(example) for example in self.manifest.examples[:8]]
        try:
            answers = self.search([*examples, Query(features=blank)], k=10)
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise BundleDamaged(f"{folder}: does not answer its own examples: {error}") from error
        if not all(answer.hits for answer in answers):
            raise BundleDamaged(f"{folder}: holds nothing to answer with")


def _microseconds_since(started: int) -> int:
    return (time.perf_counter_ns() - started) // 1000
