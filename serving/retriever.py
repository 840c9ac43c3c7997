"""Queries in, answers out: a bundle at work, without a transport.

retriever = Retriever.load(Path(".cache/bundles/3f2a9c0d1e5b"))
(answer,) = retriever.search([Query(text="eigenvalues of a symmetric matrix")], k=10)
(answer,) = retriever.search([Query(history=("296", "593"))], k=10, exclude_history=True)
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos import bundle
from protos.bundle import Manifest
from protos.errors import BundleDamaged, InvalidInput
from protos.features import Arrays, HistoryFeature, TextFeature
from serving import score
from serving.answer import Answer, Hit, Timing
from serving.basis import Basis, Blank, bases
from serving.catalogue import Catalogue, Fields
from serving.encoder import NOT_FINITE, Encoder, checked
from serving.index import Index
from serving.query import Query, QueryForm, check_item_query, example_query
from serving.stages import TEXT, Asked, Encoded, Found, Prepared, Wanted

ONE_TEXT = (TEXT,)
_tuple = tuple.__new__  # what a NamedTuple calls, in little more than half the time


class Retriever:
    """Answers queries from one bundle; safe to call from several threads. Made by `load`."""

    def __init__(self, manifest: Manifest, encoder: Encoder, index: Index, catalogue: Catalogue) -> None:
        self.manifest = manifest
        self.catalogue = catalogue
        self._encoder = encoder
        self._index = index
        self._form = QueryForm(manifest.schema.query)
        self._shows_products = score.is_product(manifest.score)
        self._histories = [n for n, spec in self._form.features.items() if isinstance(spec, HistoryFeature)]
        self._no_basis = Basis.POPULAR if catalogue.knows_popular else Basis.NONE
        self._unknown_text = Asked(basis=self._no_basis)
        self._blank: Blank | None = None
        if any(isinstance(spec, TextFeature) for spec in self._form.features.values()):
            self._blank = Blank(self._encode_blank())

    @classmethod
    def load(
        cls, folder: Path, threads: int = 1, catalogue: Callable[[Path, Manifest], Catalogue] = Catalogue
    ) -> "Retriever":
        """A bundle, verified file by file before anything of it is used, and warmed up.

        Args:
            folder: of the bundle.
            threads: that the query tower may use inside one call.
            catalogue: opens the catalogue of a bundle.

        Raises:
            BundleDamaged: a file is missing, altered, or does not fit the others.
            BundleTooNew, BundleTooOld: the bundle was written by another version of this program.
        """
        manifest = bundle.read(folder)
        retriever = cls(
            manifest,
            Encoder(folder, manifest, threads),
            Index(folder, manifest),
            catalogue(folder, manifest),
        )
        retriever._warm_up(folder)
        return retriever

    @property
    def item_vectors(self) -> npt.NDArray[np.float32]:
        """Vectors of the catalogue, (N, D); row n belongs to item n."""
        return self._index.vectors

    def open_encoder(self, folder: Path, threads: int) -> None:
        """Open the query tower anew, with as many threads in one call; they do not survive a fork.

        Raises:
            BundleDamaged: as `load`.
        """
        self._encoder = Encoder(folder, self.manifest, threads)

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
        return self.nearest(self._encode(queries, ()), k, exclude, exclude_history)

    def prepare(self, query: Query, name: str = "query") -> Prepared:
        """A query, looked up and checked for itself: the part of `encode` that knows no batch.

        Raises:
            InvalidInput: the query does not fit the bundle; the field begins with `name`.
            UnknownItem: an `item_id` that the catalogue does not hold.
        """
        if query.item_id is None:
            return Prepared(name, self._form.values(query, name))
        check_item_query(query, name)
        return Prepared(name, None, self.catalogue.row(query.item_id, f"{name}.item_id"))

    def encode(self, queries: Sequence[Query], names: Sequence[str] = ()) -> Encoded:
        """Queries as vectors; that of an item where the query is an `item_id`.

        Args:
            queries: at least one.
            names: what an error calls each query; `queries[0]`, `queries[1]`... if there are none.

        Raises:
            InvalidInput: a query does not fit the bundle; the field begins with its name.
            UnknownItem: an `item_id` that the catalogue does not hold.
            ArithmeticError: a vector is not finite.
        """
        if names and len(names) != len(queries):
            raise ValueError(f"names: expected {len(queries)}, one for each query, got {len(names)}")
        encoded = self._encode(queries, names)
        checked(encoded.vectors)
        return encoded

    def _encode(self, queries: Sequence[Query], names: Sequence[str]) -> Encoded:
        started = time.perf_counter_ns()
        if not queries:
            raise InvalidInput("queries", "expected at least one")
        prepared = [*map(self.prepare, queries, names or _numbered(len(queries)))]
        return self.encode_prepared(prepared, started)

    def encode_prepared(self, prepared: Sequence[Prepared], started: int | None = None) -> Encoded:
        """The vectors of prepared queries, at least one; `find` tells whether they are finite.

        Args:
            prepared: the queries.
            started: `time.perf_counter_ns()` from which on `encode_us` counts; now if not given.

        Raises:
            InvalidInput: a value does not fit its feature; the field begins with the query's name.
        """
        started = time.perf_counter_ns() if started is None else started
        lone = len(prepared) == 1 and prepared[0].values is not None
        raw = prepared if lone else [each for each in prepared if each.values is not None]
        if len(raw) == len(prepared):
            vectors, asked = self._encode_values(raw)
            return Encoded(vectors, tuple(asked), _microseconds_since(started))
        vectors = np.empty((len(prepared), self.manifest.dimension), np.float32)
        encoded = iter(zip(*self._encode_values(raw), strict=True) if raw else ())
        asked = []
        for n, each in enumerate(prepared):
            if each.own_row is None:
                vectors[n], one = next(encoded)
            else:
                vectors[n], one = self._index.vectors[each.own_row], Asked(each.own_row)
            asked.append(one)
        return Encoded(vectors, tuple(asked), _microseconds_since(started))

    def nearest(
        self, encoded: Encoded, k: int, exclude: Collection[str] = (), exclude_history: bool = False
    ) -> list[Answer]:
        """The second half of `search`."""
        started = time.perf_counter_ns()
        wanted = self.wanted(k, exclude, exclude_history)
        found = self.find(encoded, [wanted] * len(encoded.asked))
        hits = [*map(self._hits, found)]
        timing = Timing(encode_us=encoded.encode_us, search_us=_microseconds_since(started))
        version = self.manifest.bundle_version
        return [
            Answer(each, version, timing, asked.unknown_history, asked.basis)
            for each, asked in zip(hits, encoded.asked, strict=True)
        ]

    def wanted(self, k: int, exclude: Collection[str] = (), exclude_history: bool = False) -> Wanted:
        """What `find` takes, from what a client says.

        Raises:
            InvalidInput: k is below 1.
        """
        if k < 1:
            raise InvalidInput("k", f"expected at least 1, got {k}")
        return Wanted(k, frozenset(self.catalogue.rows(exclude)) if exclude else frozenset(), exclude_history)

    def find(self, encoded: Encoded, wanted: Sequence[Wanted]) -> list[Found]:
        """For each query, the rows and scores of its best items.

        Args:
            encoded: the queries.
            wanted: of each; `NOTHING` finds nothing and costs nothing.

        Raises:
            ArithmeticError: a query's vector is not finite.
        """
        k = wanted[0].k if wanted else 0
        if k and encoded.asked == ONE_TEXT and self._shows_products and wanted[0].is_only(k):
            return [self._find_one(encoded.vectors, k)]
        checked(encoded.vectors)
        plain = k and encoded.asked[0] is TEXT and encoded.asked.count(TEXT) == len(wanted)
        if plain and all(each.is_only(k) for each in wanted):
            rows, products = self._index.search(encoded.vectors, k)
            scores = score.shown(products, self.manifest.score)
            return [Found(*best, TEXT) for best in zip(rows.tolist(), scores.tolist(), strict=True)]
        return self._find_each(encoded, wanted)

    def _find_one(self, vector: npt.NDArray[np.float32], k: int) -> Found:
        """As `find`, of a lone text."""
        rows, products = self._index.search_one(vector, k)
        if not math.isfinite(products[0]):  # as it would be if anything in the vector were not
            raise ArithmeticError(NOT_FINITE)
        return _tuple(Found, (rows, products, TEXT))

    def _find_each(self, encoded: Encoded, wanted: Sequence[Wanted]) -> list[Found]:
        """As `find`, of queries that differ in what they exclude, how much they want or what they are."""
        excluded = [asked.excluded(each) for asked, each in zip(encoded.asked, wanted, strict=True)]
        found: list[Found | None] = [None] * len(wanted)
        # How many to look for, and whether in the graph -> queries.
        together: dict[tuple[int, bool], list[int]] = {}
        for n, asked in enumerate(encoded.asked):
            if wanted[n].k == 0 or asked.basis is Basis.NONE:
                found[n] = Found([], [], asked)
            elif asked.basis is Basis.POPULAR:
                found[n] = Found(*self.catalogue.popular(wanted[n].k, excluded[n]), asked)
            else:  # what else is in its batch must not change how far the search for a query looks
                in_graph = asked.own_row is None or not self._index.filled
                together.setdefault((wanted[n].k + len(excluded[n]), in_graph), []).append(n)
        for (width, in_graph), batch in together.items():
            whole = len(batch) == len(wanted)
            search = self._index.search if in_graph else self._index.exact
            rows, products = search(encoded.vectors if whole else encoded.vectors[batch], width)
            scores = score.shown(products, self.manifest.score)
            for place, n in enumerate(batch):
                asked = encoded.asked[n]
                values = scores if asked.own_row is None else products
                best = rows[place].tolist(), values[place].tolist()
                found[n] = Found(*_without(excluded[n], *best, wanted[n].k), asked)
        return [each for each in found if each is not None]

    def _encode_values(self, raw: Sequence[Prepared]) -> tuple[npt.NDArray[np.float32], list[Asked]]:
        """Vectors (B, D) of queries that are no items, and what else there is to know of them."""
        values: Sequence[Mapping[str, Any]] = [each.values or {} for each in raw]
        if len(raw) > 1 and len(parts := self._encoder.together(values)) > 1:
            return self._encode_parts(raw, parts)
        try:
            arrays = self._encoder.arrays(values)
        except InvalidInput:
            self._encoder.blame(values, [each.name for each in raw])
            raise
        vectors = self._encoder.unchecked(arrays)
        asked = [TEXT] * len(raw) if self._form.needs_text else self._asked(values, arrays)
        if self._blank is not None and self._blank.may_be_in(vectors):  # costs .3 us; the rest 7, and is rare
            self._note_blank(self._blank, vectors, values, asked)
        return vectors, asked

    def _note_blank(
        self,
        blank: Blank,
        vectors: npt.NDArray[np.float32],
        values: Sequence[Mapping[str, Any]],
        asked: list[Asked],
    ) -> None:
        """Change in `asked` what the answers to queries that say nothing rest on."""

        def alone(place: int) -> npt.NDArray[np.float32]:
            return self._encoder.unchecked(self._encoder.arrays(values[place : place + 1]))

        for place in blank.places(vectors, alone):
            known = asked[place]
            asked[place] = self._unknown_text if known is TEXT else replace(known, basis=self._no_basis)

    def _asked(self, values: Sequence[Mapping[str, Any]], arrays: Arrays) -> list[Asked]:
        """What a search needs to know of queries for which a text is not required."""
        asked = []
        for each, basis in zip(values, bases(self._form.features, arrays), strict=True):
            histories = [(name, each[name] or ()) for name in self._histories]
            rows = self.catalogue.rows(item_id for _, history in histories for item_id in history)
            unknown = sum(self._encoder.inputs.unknown(name, history) for name, history in histories)
            basis = self._no_basis if basis is Basis.POPULAR else basis
            asked.append(Asked(None, frozenset(rows), unknown, basis))
        return asked

    def _encode_parts(
        self, raw: Sequence[Prepared], parts: Sequence[Sequence[int]]
    ) -> tuple[npt.NDArray[np.float32], list[Asked]]:
        """As `_encode_values`, part by part."""
        vectors = np.empty((len(raw), self.manifest.dimension), np.float32)
        asked = [TEXT] * len(raw)
        for places in parts:
            vectors[places], some = self._encode_values([raw[place] for place in places])
            for place, each in zip(places, some, strict=True):
                asked[place] = each
        return vectors, asked

    def _hits(self, found: Found) -> tuple[Hit, ...]:
        catalogue, ids = self.catalogue, self.catalogue.ids
        best = zip(found.rows, found.scores, strict=True)
        return tuple([_tuple(Hit, (ids[row], value, Fields(catalogue, row))) for row, value in best])

    def _encode_blank(self) -> npt.NDArray[np.float32]:
        """The vector (1, D) of a query in which everything is absent.

        Clients cannot send it to every tower, but every tower has to encode it.

        Raises:
            BundleDamaged: the query tower cannot.
        """
        try:
            return self._encoder.unchecked(self._encoder.arrays([self._form.blank]))
        except Exception as error:  # ONNX Runtime's errors share no other base
            name = self.manifest.bundle_version[:12]
            raise BundleDamaged(f"bundle {name}: the query tower fails on an empty query: {error}") from error

    def _warm_up(self, folder: Path) -> None:
        """Answer queries before the first client does, so that its query is as fast as the rest."""
        examples = [example_query(example) for example in self.manifest.examples[:8]]
        try:
            answers = self.nearest(Encoded(self._encode_blank(), (TEXT,), 0), k=10)
            answers += self.search(examples, k=10) if examples else []
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise BundleDamaged(f"{folder}: does not answer its own examples: {error}") from error
        if not all(answer.hits or answer.basis is Basis.NONE for answer in answers):
            raise BundleDamaged(f"{folder}: holds nothing to answer with")


@lru_cache(maxsize=64)
def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"queries[{n}]" for n in range(count))


def _without(
    excluded: frozenset[int], rows: list[int], scores: list[float], k: int
) -> tuple[list[int], list[float]]:
    """The first `k` that are not excluded."""
    if excluded:
        kept = [place for place, row in enumerate(rows) if row not in excluded]
        rows, scores = [rows[place] for place in kept], [scores[place] for place in kept]
    return rows[:k], scores[:k]


def _microseconds_since(started: int) -> int:
    return (time.perf_counter_ns() - started) // 1000
