"""Queries to answers from one bundle, without a server.

retriever = Retriever.load(Path(".cache/bundles/3f2a9c0d1e5b"))
(answer,) = retriever.search([Query(text="eigenvalues of a symmetric matrix")], k=10)
(answer,) = retriever.search([Query(history=("296", "593"))], k=10, exclude_history=True)
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import cast

import numpy as np

from twinspire.protos import bundle
from twinspire.protos.bundle import Manifest
from twinspire.protos.drift import DriftReference, MeasureQuery, query_measures
from twinspire.protos.errors import BundleDamaged, InvalidInput, UnknownItem
from twinspire.protos.nearest.search import each_vector, largest_products, merge
from twinspire.serving.filters.compiled import CompiledFilter, FilterCache
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.answer import Answer, Basis, FusionMode, Hit, Timing
from twinspire.serving.retrieval.encoder import Encoder, QueryEncoder, require_finite
from twinspire.serving.retrieval.event_reading import EventReading
from twinspire.serving.retrieval.hybrid_search import HybridSearch, check_fusion
from twinspire.serving.retrieval.query import (
    NO_SEARCH,
    PLAIN,
    EncodedQueries,
    PreparedQuery,
    Query,
    QueryContext,
    QueryForm,
    SearchOptions,
    SearchResult,
    check_item_ids,
    check_item_query,
    example_query,
    refuse_lone_string,
)
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.remote import RemoteCollection, RemoteSegment
from twinspire.serving.segments.searcher import Searcher
from twinspire.serving.segments.vector_index import Rows, Vectors, shown_scores

UNFILTERED = Plan.UNFILTERED
NO_EVENTS = "the events of users are not known here; a service knows them that was started with --events"


class Retriever:
    """Answers queries from one bundle, and its live items. `load` makes one.

    It is safe to call from several threads if there are no live items. Where the items are on another server
    (`Manifest.is_remote`), `prepare` of an `item_id`, `find` and `scores` wait for that server.

    Args:
        encoder: the query tower.
        built: the segment of the bundle.
        growing: the live items.
        measures: measures a query for drift; None if the bundle has no reference.

    Attributes:
        built: the segment of the bundle.
        items: what is searched: the segment of the bundle, together with the live items if there are any.
        filters: evaluates filters on them.
        hybrid: the lexical search; None if the bundle has no lexical index.
        interests: K, the number of vectors of a query, each of which is searched.
        events: how its queries take the events of users.
    """

    def __init__(
        self,
        encoder: Encoder,
        built: BuiltSegment,
        growing: GrowingSegment | None = None,
        measures: MeasureQuery | None = None,
    ) -> None:
        self.manifest = manifest = built.manifest
        self.measures = measures
        self.built, self._growing = built, growing
        self.items: BuiltSegment | Searcher = built if growing is None else Searcher(growing)
        self.filters = FilterCache(self.items)
        self.hybrid = None if built.fusion is None else HybridSearch(manifest, built.fusion, self.items)
        unknown = Basis.POPULAR if self.items.knows_popular else Basis.NONE
        self._query_encoder = QueryEncoder(encoder, manifest, self.items.rows, unknown)
        self.events = EventReading.of(manifest.dataset, self._query_encoder.form, encoder.inputs)
        self._excludes_history = manifest.excludes_history
        self._default_beyond_k = SearchOptions(0, exclude_history=self._excludes_history)[1:]
        self.interests, self._width = manifest.interests, manifest.width("query")
        own_fusion = FusionMode.DENSE if self.hybrid is None else FusionMode.HYBRID
        self._own_fusions = (FusionMode.DEFAULT, own_fusion)
        # The index may hold items without the coordinate that pads them to unit length (`VectorIndex`).
        self._searches_items_exactly = manifest.score.has_padding_dim

    @classmethod
    def load(
        cls, folder: Path, threads: int = 1, catalogue: Callable[[Path, Manifest], Catalogue] = Catalogue
    ) -> "Retriever":
        """Load a bundle: verify each file before anything is used, and warm up.

        Args:
            threads: of the query tower inside one call.
            catalogue: opens the catalogue of a bundle.

        Raises:
            BundleDamaged: a file is missing, altered, or does not fit the others.
            BundleTooNew, BundleTooOld: the bundle was written by another version of this program.
            ConfigError, PackageMissing: another server has its items (`RemoteCollection`).
        """
        manifest = bundle.read(folder, is_served=True)
        encoder = Encoder(folder, manifest, threads)
        if manifest.is_remote:  # it has all methods that are called without live items and a lexical index
            built = cast(BuiltSegment, RemoteSegment(manifest, RemoteCollection(manifest)))
        else:
            built = BuiltSegment.load(folder, manifest, catalogue)
        reference = DriftReference.read(folder, manifest)
        measures = None if reference is None else query_measures(encoder.inputs, reference)
        retriever = cls(encoder, built, measures=measures)
        retriever._warm_up(folder)
        return retriever

    def with_live_items(self, growing: GrowingSegment) -> "Retriever":
        """The same bundle with live items."""
        return Retriever(self._query_encoder.tower, growing.built, growing, self.measures)

    @property
    def query_form(self) -> QueryForm:
        """How the fields of a query fill the features of the query tower."""
        return self._query_encoder.form

    @property
    def item_vectors(self) -> Vectors:
        """Vectors of the bundle's items, (N, D), if they are here; row n belongs to item n."""
        return self.built.index.vectors(slice(None))

    @property
    def sequence(self) -> int:
        """All changes of live items up to this sequence are searched; 0 without live items."""
        return 0 if self._growing is None else self._growing.sequence

    @property
    def item_count(self) -> int:
        """Number of the items that a search can find, live ones included."""
        growing = self._growing
        return self.built.count if growing is None else growing.item_count

    def search(
        self,
        queries: Sequence[Query],
        k: int,
        exclude: Collection[str] = (),
        exclude_history: bool | None = None,
        filter: Filter | None = None,
        fusion: FusionMode = FusionMode.DEFAULT,
        min_score: float | None = None,
    ) -> list[Answer]:
        """The `k` nearest items for each query, or all where the catalogue has fewer.

        Args:
            queries: at least one.
            k: at least 1.
            exclude: item ids that must not be in any answer; unknown ones exclude nothing.
            exclude_history: exclude the items of a query's own history from its answer, too, and those of its
                negative history; None as the bundle was evaluated, `Manifest.excludes_history`.
            filter: only items that pass are in the answers, as `serving.filters.expression.where` builds it.
            fusion: which scores rank the items of queries with a text.
            min_score: leave out the hits with a lower score, so that there may be fewer than `k`.

        Raises:
            InvalidInput: a query does not fit the bundle; the field is `queries[<n>].<field>`. Or the filter
                does not; the field begins with `filter`. Or the fusion does not; the field is `fusion`. Or
                `min_score` is not finite.
            UnknownItem: the catalogue does not hold an `item_id`; the field is as above.
            TypeError: `queries` or `exclude` is one string.
        """
        encoded = self._encode(queries, ())
        compiled = None if filter is None else self.filters.compile(filter)
        options = self.search_options(k, exclude, exclude_history, compiled, fusion, min_score)
        return self.search_encoded(encoded, options)

    def prepare(self, query: Query, name: str = "query", excluded: Collection[str] = ()) -> PreparedQuery:
        """Check one query, and look up its item: the part of `encode` before batching.

        Args:
            excluded: ids of items that must not be in its answer.

        Raises:
            InvalidInput: the query does not fit the bundle; the field begins with `name`.
            UnknownItem: an `item_id` that the catalogue does not hold.
        """
        if query.user is not None:
            raise InvalidInput(f"{name}.user", NO_EVENTS)
        if query.item_id is not None:
            return self.prepare_all([query], [name], [excluded])[0]
        values = self._query_encoder.form.values(query, name)
        return PreparedQuery(name, values, None, excluded) if excluded else PreparedQuery(name, values)

    def prepare_all(
        self, queries: Sequence[Query], names: Sequence[str], excluded: Iterable[Collection[str]] = repeat(())
    ) -> list[PreparedQuery]:
        """As `prepare`, of several queries: their items are looked up together."""
        for query, name in zip(queries, names, strict=True):
            if query.item_id is not None:
                check_item_query(query, name)
        wanted = [query.item_id for query in queries if query.item_id is not None]
        rows = dict(zip(wanted, self.items.find_all(wanted), strict=True)) if wanted else {}
        prepared = []
        for query, name, ids in zip(queries, names, excluded, strict=False):
            if query.item_id is None or query.user is not None:
                prepared.append(self.prepare(query, name, ids))
            elif (row := rows[query.item_id]) is not None:
                prepared.append(PreparedQuery(name, None, row, ids))
            else:
                raise UnknownItem(f"{name}.item_id", f"the catalogue holds no item {query.item_id!r}")
        return prepared

    def encode(self, queries: Sequence[Query], names: Sequence[str] = ()) -> EncodedQueries:
        """The vectors of queries; for an `item_id`, the item's own vector.

        Args:
            queries: at least one.
            names: of the queries in errors; `queries[0]`, `queries[1]`... by default.

        Raises:
            InvalidInput: a query does not fit the bundle; the field begins with its name.
            UnknownItem: an `item_id` that the catalogue does not hold.
            ArithmeticError: a vector is not finite.
            ValueError: there are not as many names as queries.
        """
        encoded = self._encode(queries, names)
        require_finite(encoded.vectors)
        return encoded

    def _encode(self, queries: Sequence[Query], names: Sequence[str]) -> EncodedQueries:
        started = time.perf_counter_ns()
        refuse_lone_string(queries, "queries", "queries")
        if not queries:
            raise InvalidInput("queries", "expected at least one")
        prepared = self.prepare_all(queries, names or [f"queries[{n}]" for n in range(len(queries))])
        return self.encode_prepared(prepared, started)

    def encode_prepared(
        self, prepared: Sequence[PreparedQuery], started: int | None = None
    ) -> EncodedQueries:
        """The vectors of prepared queries, at least one; `find` checks that they are finite.

        Args:
            prepared: the queries.
            started: start of `encode_us`, in `time.perf_counter_ns()`; now if not given.

        Raises:
            InvalidInput: a value does not fit its feature; the field begins with the query's name.
        """
        started = time.perf_counter_ns() if started is None else started
        words = () if self.hybrid is None else self.hybrid.terms(prepared)
        lone = len(prepared) == 1 and prepared[0].values is not None
        raw = prepared if lone else [each for each in prepared if each.values is not None]
        if len(raw) == len(prepared):
            vectors, contexts = self._query_encoder.encode(raw)
            contexts = self._with_exclusions(prepared, contexts)
            return EncodedQueries(vectors, tuple(contexts), _microseconds_since(started), *words)
        vectors = np.empty((len(prepared), self._width), np.float32)
        encoded = iter(zip(*self._query_encoder.encode(raw), strict=True) if raw else ())
        contexts = []
        for n, each in enumerate(prepared):
            if each.own_row is None:
                vectors[n], one = next(encoded)
            else:
                vectors[n] = np.tile(self.items.vectors([each.own_row])[0], self.interests)
                one = QueryContext(each.own_row)
            contexts.append(one)
        contexts = self._with_exclusions(prepared, contexts)
        return EncodedQueries(vectors, tuple(contexts), _microseconds_since(started), *words)

    def _with_exclusions(
        self, prepared: Sequence[PreparedQuery], contexts: list[QueryContext]
    ) -> list[QueryContext]:
        """The contexts of queries, with the rows of the items that each excludes."""
        for n, each in enumerate(prepared):
            if each.excluded:
                contexts[n] = replace(contexts[n], excluded_rows=frozenset(self.items.rows(each.excluded)))
        return contexts

    def search_encoded(self, encoded: EncodedQueries, options: SearchOptions) -> list[Answer]:
        """As `search`, of queries that `encode` has encoded; an ArithmeticError if a vector is not finite."""
        started = time.perf_counter_ns()
        found = self.find(encoded, [options] * len(encoded.contexts))
        hits = [*map(self._hits, found)]
        timing = Timing(encode_us=encoded.encode_us, search_us=_microseconds_since(started))
        version = self.manifest.bundle_version
        return [
            Answer(
                each,
                version,
                timing,
                result.context.unknown_history,
                result.context.basis,
                self.sequence,
                result.plan,
                result.fusion,
                result.weak,
            )
            for each, result in zip(hits, found, strict=True)
        ]

    def search_options(
        self,
        k: int,
        exclude: Collection[str] = (),
        exclude_history: bool | None = None,
        compiled: CompiledFilter | None = None,
        fusion: FusionMode = FusionMode.DEFAULT,
        min_score: float | None = None,
    ) -> SearchOptions:
        """The options that `find` takes, from item ids.

        Raises:
            InvalidInput: k is below 1, an excluded id is no string, the fusion lacks a lexical index, or
                `min_score` is not finite.
            TypeError: `exclude` is one string.
        """
        if k < 1:
            raise InvalidInput("k", f"expected at least 1, got {k}")
        check_item_ids(exclude, "exclude")
        if exclude_history is None:
            exclude_history = self._excludes_history
        if min_score is not None and not math.isfinite(min_score):
            raise InvalidInput("min_score", f"expected a finite number, got {min_score}")
        fusion = FusionMode(fusion)
        check_fusion(self.hybrid, fusion)
        rows = frozenset(self.items.rows(exclude)) if exclude else frozenset()
        return SearchOptions(k, rows, exclude_history, compiled, fusion, min_score)

    def is_default(self, options: SearchOptions) -> bool:
        """Whether they are those of `search_options(k)` for some k."""
        return options[1:] == self._default_beyond_k

    def expected_cost(self, options: SearchOptions) -> int:
        """The expected work of searching for one query, in items, beyond `k` and the excluded ones.

        It consists of the steps of a search among the items that pass a filter, and of the searches for the
        further vectors of a query that has several.
        """
        if options.filter is None:
            return (self.interests - 1) * (options.k + len(options.exclude))
        repeated = (self.interests - 1) * len(options.exclude)
        return repeated + self.interests * self.items.expected_cost(options.k, options.filter.passing)

    def extra_cost(self, options: SearchOptions) -> int:
        """The part of `expected_cost` that is due to the filter."""
        if not self.built.has_graph:
            return 0
        return max(0, self.expected_cost(options) - self.interests * self.built.expected_cost(options.k))

    def find(self, encoded: EncodedQueries, options: Sequence[SearchOptions]) -> list[SearchResult]:
        """For each query, the rows and scores of its best items.

        Args:
            encoded: the queries.
            options: of each; with `NO_SEARCH` a query is not searched, and its result is empty.

        Raises:
            ArithmeticError: a query's vector is not finite.
        """
        if self.hybrid is None or not encoded.terms:
            found = self._find_dense(encoded, options)
        else:
            found = self.hybrid.find(self._find_dense, encoded, options)
        weak_score = self.manifest.weak_score
        for n, each in enumerate(options):
            if weak_score is not None and self._best_match(found[n], each, encoded, n) < weak_score:
                found[n] = found[n]._replace(weak=True)
            if each.min_score is not None:
                found[n] = found[n].at_least(each.min_score)
        return found

    def _best_match(
        self, found: SearchResult, asked: SearchOptions, encoded: EncodedQueries, place: int
    ) -> float:
        """The score to compare with `weak_score`: -infinite if nothing matches, infinite if none applies."""
        if found.context.own_row is not None or not asked.k or asked.fusion not in self._own_fusions:
            return math.inf
        if not found.rows or not found.context.basis.is_searched:
            return -math.inf
        if self.hybrid is None or not encoded.terms:
            return found.scores[0]
        words = encoded.terms[place], encoded.unknown[place]
        return self.hybrid.index.matched_score(found.scores[0], found.lexical[0], *words)

    def _find_dense(self, encoded: EncodedQueries, options: Sequence[SearchOptions]) -> list[SearchResult]:
        """As `find`, by the vectors alone."""
        require_finite(encoded.vectors)
        if self.interests > 1:
            return self._find_interests(encoded, options)
        first = options[0] if options else NO_SEARCH
        plain = first.k and not first.exclude and first.filter is None and encoded.contexts[0] is PLAIN
        if plain and encoded.contexts.count(PLAIN) == options.count(first) == len(options):
            rows, products = self.items.search(encoded.vectors, first.k)
            scores = shown_scores(products, self.manifest.score)
            best = zip(rows.tolist(), scores.tolist(), strict=True)
            return [SearchResult(*each, PLAIN) for each in best]
        return self._find_each(encoded, options)

    def _find_interests(
        self, encoded: EncodedQueries, options: Sequence[SearchOptions]
    ) -> list[SearchResult]:
        """As `find`, of queries of K vectors each: an item's score is the largest of its vectors' scores.

        An item as a query is searched by its one vector. A query that needs no search, such as one on the
        basis POPULAR, is passed to `_find_each` once. The plan is that of the first vector.
        """
        counts = [
            self.interests if context.own_row is None and context.basis.is_searched and each.k else 1
            for context, each in zip(encoded.contexts, options, strict=True)
        ]
        queries = [n for n, count in enumerate(counts) for _ in range(count)]
        places = [n * self.interests + m for n, count in enumerate(counts) for m in range(count)]
        vectors = each_vector(encoded.vectors, self.manifest.dimension)[places]
        alone = EncodedQueries(vectors, tuple([encoded.contexts[n] for n in queries]), encoded.encode_us)
        found = iter(self._find_each(alone, [options[n] for n in queries]))
        results = []
        for vector, count, each in zip(encoded.vectors, counts, options, strict=True):
            result, *others = islice(found, count)
            rows = np.array([*result.rows, *(row for other in others for row in other.rows)], np.int64)
            if others and len(rows):
                # Computed again: a graph may find an item only for a vector that is not the nearest.
                rows, products = merge(rows, self.items.vectors, vector, each.k)
                result = result._replace(rows=rows.tolist(), scores=products.tolist())
            results.append(result)
        return results

    def scores(
        self, vector: Vectors, item_ids: Sequence[str], basis: Basis = Basis.QUERY
    ) -> list[float | None]:
        """The towers' exact scores of items for one query; None for an item that is not there.

        They are those that a search shows; of a hybrid bundle `Hit.dense`.

        Args:
            vector: float32 (D,), of the query tower; of a query of several vectors (K * D,).
            item_ids: of the catalogue as it is now, live items and deletes included.
            basis: of the query; on the bases `POPULAR` and `NONE` the tower knows nothing of the query, and
                the scores are those of the blank query.

        Raises:
            ArithmeticError: the vector is not finite.
        """
        if basis in (Basis.POPULAR, Basis.NONE):
            vector = self._query_encoder.blank_vector[0]
        require_finite(vector)
        rows = self.items.find_all(item_ids)
        known = [row for row in rows if row is not None]
        products = largest_products(self.items.vectors(known), vector) if known else vector[:0]
        shown = iter(shown_scores(products, self.manifest.score).tolist())
        return [None if row is None else next(shown) for row in rows]

    def _find_each(self, encoded: EncodedQueries, options: Sequence[SearchOptions]) -> list[SearchResult]:
        """As `find`, of any queries of one vector each, which may differ in options and context."""
        pairs = zip(encoded.contexts, options, strict=True)
        excluded = [self.items.current(context.excluded(each)) for context, each in pairs]
        found: list[SearchResult | None] = [None] * len(options)
        # (items to search for, whether approximately, filter) -> queries
        groups: dict[tuple[int, bool, CompiledFilter | None], list[int]] = {}
        for n, context in enumerate(encoded.contexts):
            passing = options[n].filter
            if options[n].k == 0 or context.basis is Basis.NONE:
                found[n] = SearchResult([], [], context, UNFILTERED if passing is None else Plan.EMPTY)
            elif context.basis is Basis.POPULAR:
                found[n] = self._find_popular(excluded[n], options[n], context)
            else:  # searched only with queries of the same width, so that others do not change its result
                approximate = context.own_row is None or not self._searches_items_exactly
                width = options[n].k + len(excluded[n])
                if self.manifest.is_remote:  # each group is a question to the server, so there are to be few
                    width = 1 << (width - 1).bit_length()
                groups.setdefault((width, approximate, passing), []).append(n)
        for (width, approximate, passing), batch in groups.items():
            vectors = encoded.vectors if len(batch) == len(options) else encoded.vectors[batch]
            nearest = self._nearest(vectors, width, approximate, passing)
            for n, (rows, products, scores, plan) in zip(batch, nearest, strict=True):
                context = encoded.contexts[n]
                values = scores if context.own_row is None else products
                best = rows.tolist(), values.tolist()
                found[n] = SearchResult(*_without(excluded[n], *best, options[n].k), context, plan)
        return [each for each in found if each is not None]

    def _nearest(
        self, vectors: Vectors, width: int, approximate: bool, passing: CompiledFilter | None
    ) -> Iterable[tuple[Rows, Vectors, Vectors, Plan]]:
        """Rows, products, shown scores and plan for each query; of items that pass, if there is a filter."""
        if passing is None:
            search = self.items.search if approximate else self.items.exact
            (rows, products), plans = search(vectors, width), [UNFILTERED] * len(vectors)
        else:
            (rows, products), plans = self.items.search_passing(vectors, width, passing.passing, approximate)
        return zip(rows, products, shown_scores(products, self.manifest.score), plans, strict=True)

    def _find_popular(
        self, excluded: frozenset[int], options: SearchOptions, context: QueryContext
    ) -> SearchResult:
        """The most popular items, of those that pass if there is a filter."""
        if options.filter is None:
            return SearchResult(*self.items.popular(options.k, excluded), context)
        mask = options.filter.passing.mask
        if not mask.any():
            return SearchResult([], [], context, Plan.EMPTY)
        return SearchResult(*self.items.popular(options.k, excluded, mask), context, Plan.POPULAR)

    def _hits(self, found: SearchResult) -> tuple[Hit, ...]:
        items = self.items
        hits = zip(found.rows, found.scores, *found.parts, strict=True)
        return tuple(
            [Hit(items.item_id(row), score, items.fields(row), *parts) for row, score, *parts in hits]
        )

    def _warm_up(self, folder: Path) -> None:
        """Answer some queries, so that the first client's query is as fast as later ones.

        Of a remote bundle they are only encoded: threads of a connection would not survive a fork.
        """
        examples = [example_query(example) for example in self.manifest.examples[:8]]
        try:
            if self.manifest.is_remote:
                if examples:
                    self.encode(examples)
                return
            blank = EncodedQueries(self._query_encoder.encode_blank(), (PLAIN,), 0)
            answers = self.search_encoded(blank, SearchOptions(10))
            if examples:  # with histories: a small catalogue may be all in an example's history
                answers += self.search(examples, k=10, exclude_history=False)
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise BundleDamaged(f"{folder}: does not answer its own examples: {error}") from error
        if not all(answer.hits or answer.basis is Basis.NONE for answer in answers):
            raise BundleDamaged(f"{folder}: holds nothing to answer with")


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
