"""Queries in, answers out: a bundle at work, without a transport.

retriever = Retriever.load(Path(".cache/bundles/3f2a9c0d1e5b"))
(answer,) = retriever.search([Query(text="eigenvalues of a symmetric matrix")], k=10)
(answer,) = retriever.search([Query(history=("296", "593"))], k=10, exclude_history=True)
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos import bundle
from protos.bundle import Manifest
from protos.errors import BundleDamaged, InvalidInput
from protos.features import HistoryFeature
from serving import score
from serving.answer import Answer, Hit, Timing
from serving.basis import Basis, bases
from serving.catalogue import Catalogue
from serving.encoder import Encoder
from serving.index import Index
from serving.query import Query, blank_values, check_item_query, example_query, tower_values


@dataclass(frozen=True)
class Asked:
    """What a search has to know of a query beside its vector.

    Args:
        own_row: the row of the item that it is, None where it is not one.
        history_rows: rows of those items of its history that the catalogue holds.
        unknown_history: items of its history that the tower does not know.
        basis: what its answer rests on.
    """

    own_row: int | None = None
    history_rows: frozenset[int] = frozenset()
    unknown_history: int = 0
    basis: Basis = Basis.QUERY


@dataclass(frozen=True)
class Encoded:
    """Queries that have become vectors.

    Args:
        vectors: float32 (B, D), of unit length where the query is an item or scores are cosines.
        asked: the rest of what there is to know of each query.
        encode_us: microseconds that this took.
    """

    vectors: npt.NDArray[np.float32]
    asked: tuple[Asked, ...]
    encode_us: int


class Retriever:
    """Answers queries from one bundle; safe to call from several threads. Made by `load`."""

    def __init__(self, manifest: Manifest, encoder: Encoder, index: Index, catalogue: Catalogue) -> None:
        self.manifest = manifest
        self.catalogue = catalogue
        self._encoder = encoder
        self._index = index
        self._features = manifest.schema.query
        self._histories = [n for n, spec in self._features.items() if isinstance(spec, HistoryFeature)]

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

    def search(
        self, queries: Sequence[Query], k: int, exclude: Collection[str] = (), exclude_history: bool = False
    ) -> list[Answer]:
        """The `k` nearest items for each query, or all where the catalogue has fewer.

        Args:
            queries: at least one.
            k: at least 1.
            exclude: item ids that must not be in any answer; unknown ones exclude nothing.
            exclude_history: nor may the items of a query's own history be in its answer.

        Raises:
            InvalidInput: a query does not fit the bundle; the field is `queries[<n>].<field>`.
            UnknownItem: so is an `item_id` that the catalogue does not hold.
        """
        return self.nearest(self.encode(queries), k, exclude, exclude_history)

    def encode(self, queries: Sequence[Query], names: Sequence[str] = ()) -> Encoded:
        """Queries as vectors; that of an item where the query is an `item_id`.

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
        asked = [Asked(self._own_row(*each)) for each in zip(queries, names, strict=True)]
        for n, each in enumerate(asked):
            if each.own_row is not None:
                vectors[n] = self._index.vectors[each.own_row]
        raw = [n for n, each in enumerate(asked) if each.own_row is None]
        if raw:
            values = [tower_values(queries[n], self._features, names[n]) for n in raw]
            vectors[raw], encoded = self._encode_values(values, [names[n] for n in raw])
            for n, each in zip(raw, encoded, strict=True):
                asked[n] = each
        return Encoded(vectors, tuple(asked), _microseconds_since(started))

    def nearest(
        self, encoded: Encoded, k: int, exclude: Collection[str] = (), exclude_history: bool = False
    ) -> list[Answer]:
        """The second half of `search`."""
        started = time.perf_counter_ns()
        if k < 1:
            raise InvalidInput("k", f"expected at least 1, got {k}")
        everywhere = self.catalogue.rows(exclude)
        excluded = [everywhere | _own_rows(asked, exclude_history) for asked in encoded.asked]
        hits = [self._hits(rows) for rows in self._nearest_rows(encoded, k, excluded)]
        timing = Timing(encode_us=encoded.encode_us, search_us=_microseconds_since(started))
        version = self.manifest.bundle_version
        return [
            Answer(each, version, timing, asked.unknown_history, asked.basis)
            for each, asked in zip(hits, encoded.asked, strict=True)
        ]

    def _own_row(self, query: Query, name: str) -> int | None:
        if query.item_id is None:
            return None
        check_item_query(query, name)
        return self.catalogue.row(query.item_id, f"{name}.item_id")

    def _encode_values(
        self, values: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], list[Asked]]:
        """Vectors (B, D) of raw values, and what else there is to know of them."""
        arrays = self._encoder.arrays(values, names)
        asked = []
        for each, basis in zip(values, bases(self._features, arrays), strict=True):
            histories = [(name, each[name] or ()) for name in self._histories]
            rows = self.catalogue.rows(item_id for _, history in histories for item_id in history)
            unknown = sum(self._encoder.inputs.unknown(name, history) for name, history in histories)
            asked.append(Asked(None, frozenset(rows), unknown, basis))
        return self._encoder.vectors(arrays), asked

    def _nearest_rows(
        self, encoded: Encoded, k: int, excluded: Sequence[Collection[int]]
    ) -> list[list[tuple[int, float]]]:
        """For each query, the rows and scores of its `k` best items."""
        found: list[list[tuple[int, float]]] = [[] for _ in encoded.asked]
        # How many to look for, and whether in the graph -> queries.
        together: dict[tuple[int, bool], list[int]] = {}
        for n, asked in enumerate(encoded.asked):
            if asked.basis is Basis.POPULAR:
                found[n] = self.catalogue.popular(k, excluded[n])
            else:  # what else is in its batch must not change how far the search for a query looks
                in_graph = asked.own_row is None or not self._index.filled
                together.setdefault((k + len(excluded[n]), in_graph), []).append(n)
        for (width, in_graph), batch in together.items():
            search = self._index.search if in_graph else self._index.exact
            rows, products = search(encoded.vectors[batch], width)
            scores = score.shown(products, self.manifest.score)
            for place, n in enumerate(batch):
                values = scores if encoded.asked[n].own_row is None else products
                best = zip(rows[place].tolist(), values[place].tolist(), strict=True)
                found[n] = [(row, value) for row, value in best if row not in excluded[n]][:k]
        return found

    def _hits(self, found: Sequence[tuple[int, float]]) -> tuple[Hit, ...]:
        catalogue = self.catalogue
        return tuple(Hit(catalogue.ids[row], value, catalogue.fields(row)) for row, value in found)

    def _warm_up(self, folder: Path) -> None:
        """Answer a query before anyone asks one, so that the first is as fast as the rest."""
        examples = [example_query(example) for example in self.manifest.examples[:8]]
        try:
            # A query that says nothing may not be one that a client can ask, but a tower bears it.
            vectors, _ = self._encode_values([blank_values(self._features)], ["blank"])
            answers = self.nearest(Encoded(vectors, (Asked(),), 0), k=10)
            answers += self.search(examples, k=10) if examples else []
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise BundleDamaged(f"{folder}: does not answer its own examples: {error}") from error
        if not all(answer.hits for answer in answers):
            raise BundleDamaged(f"{folder}: holds nothing to answer with")


def _own_rows(asked: Asked, with_history: bool) -> frozenset[int]:
    """The rows that must not answer this query: itself, and what is in its history."""
    own = frozenset() if asked.own_row is None else frozenset({asked.own_row})
    return own | asked.history_rows if with_history else own


def _microseconds_since(started: int) -> int:
    return (time.perf_counter_ns() - started) // 1000
