"""Queries with a text, answered by BM25 beside the vectors (`protos/hybrid/`).

The dense search runs as it does without a lexical index, for at least `Hybrid.dense_candidates` items. Its
items and those of the postings are ranked by one score. Queries without known terms are not fused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import TextFeature
from twinspire.protos.hybrid.fusion import BM25_ALONE, NO_HITS, Fusion, FusionQuery, with_words
from twinspire.protos.inputs.texts import cut_as_read
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import (
    PLAIN,
    EncodedQueries,
    PreparedQuery,
    QueryContext,
    SearchOptions,
    SearchResult,
)
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.searcher import Searcher
from twinspire.serving.segments.vector_index import Vectors

Search = Callable[[EncodedQueries, Sequence[SearchOptions]], list[SearchResult]]
NO_ROWS: frozenset[int] = frozenset()
NO_TERMS: tuple[list[int], int] = ([], 0)  # and no unknown ones


class HybridSearch:
    """Fuses the dense search of one bundle with its lexical index; safe to call from several threads.

    Attributes:
        has_words: whether the lexical index holds any; else only whole queries.
    """

    def __init__(self, manifest: Manifest, fusion: Fusion, items: BuiltSegment | Searcher) -> None:
        self._items, self.index = items, fusion.index
        self._least, self._has_priors = fusion.hybrid.dense_candidates, fusion.hybrid.prior_weight > 0
        self.has_words = fusion.index.has_words
        features = manifest.schema.query.items()
        self._texts = {name: spec.longest for name, spec in features if isinstance(spec, TextFeature)}

    def terms(self, prepared: Sequence[PreparedQuery]) -> tuple[tuple[list[int], ...], tuple[int, ...]]:
        """The known terms of each query's texts, cut where the tower cuts them, and the number of others."""
        counted = [NO_TERMS if each.values is None else self._terms(each.values) for each in prepared]
        return tuple([terms for terms, _ in counted]), tuple([unknown for _, unknown in counted])

    def _terms(self, values: Mapping[str, Any]) -> tuple[list[int], int]:
        texts = [(values.get(name) or "", most) for name, most in self._texts.items()]
        if not all(isinstance(text, str) for text, _ in texts):
            return NO_TERMS  # the encoder refuses such values
        return self.index.counted_terms("\n".join([cut_as_read(text, most) for text, most in texts]))

    def find(
        self, search: Search, encoded: EncodedQueries, options: Sequence[SearchOptions]
    ) -> list[SearchResult]:
        """As `Retriever.find`.

        Args:
            search: the dense search.
            encoded: the queries, with their terms.
        """
        fused = [
            bool(terms) and _is_fused(context, each)
            for terms, context, each in zip(encoded.terms, encoded.contexts, options, strict=True)
        ]
        least = self._least
        wide = [
            each._replace(k=least) if is_fused and each.k < least else each
            for each, is_fused in zip(options, fused, strict=True)
        ]
        found = search(encoded, wide)
        for n, is_fused in enumerate(fused):
            if is_fused:
                found[n] = self._fused(encoded.terms[n], encoded.vectors[n], found[n], options[n])
            elif options[n].fusion is FusionMode.LEXICAL:
                found[n] = SearchResult([], [], found[n].context, found[n].plan, fusion=FusionMode.LEXICAL)
            else:
                scores, lexical = found[n].scores, [0.0] * len(found[n].scores)
                prior = lexical if self._has_priors else ()
                found[n] = found[n]._replace(
                    dense=scores, lexical=lexical, fusion=FusionMode.DENSE, prior=prior
                )
        return found

    def _fused(
        self, terms: list[int], vector: Vectors, dense: SearchResult, options: SearchOptions
    ) -> SearchResult:
        """The result of one query whose dense search has found `dense`; its exclusions are applied here."""
        context, k = dense.context, options.k
        excluded = NO_ROWS
        if options.exclude or context is not PLAIN:
            excluded = self._items.current(context.excluded(options))
        is_lexical = options.fusion is FusionMode.LEXICAL
        query = FusionQuery(terms, vector, dense.rows, dense.scores)
        weight = BM25_ALONE if is_lexical else None
        passing = None if options.filter is None else options.filter.passing
        best = self._items.rank(query, k + len(excluded), passing, weight)
        if is_lexical:
            best = with_words(best)
        if excluded:
            kept = [each for each in zip(*best, strict=True) if each[0] not in excluded]
            best = tuple(map(list, zip(*kept[:k], strict=True))) if kept else NO_HITS  # type: ignore[assignment]
        rows, scores, of_dense, of_lexical, prior = best
        fusion = FusionMode.LEXICAL if is_lexical else FusionMode.HYBRID
        shown = prior if self._has_priors else ()
        return SearchResult(rows, scores, context, dense.plan, of_dense, of_lexical, fusion, shown)


def check_fusion(hybrid: HybridSearch | None, fusion: FusionMode) -> None:
    """Refuse a fusion that a bundle does not have.

    Raises:
        InvalidInput: the bundle has no lexical index, or none of words, and the fusion needs one.
    """
    if hybrid is not None and fusion is FusionMode.LEXICAL and not hybrid.has_words:
        why = "words did not help, so this bundle has none of its items; expected dense or hybrid"
        raise InvalidInput("fusion", f"{fusion}: {why}")
    if hybrid is None and fusion in (FusionMode.LEXICAL, FusionMode.HYBRID):
        raise InvalidInput("fusion", f"{fusion}: this bundle has no lexical index, so it can only be dense")


def _is_fused(context: QueryContext, options: SearchOptions) -> bool:
    """Whether a query that has terms is ranked by the lexical scores, too."""
    return (
        options.k > 0
        and options.fusion is not FusionMode.DENSE
        and context.own_row is None
        and context.basis.is_searched
    )
