"""The answer to a query: hits, their basis, and the time of each stage."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from twinspire.protos.errors import InvalidInput
from twinspire.serving.filters.plan import Plan


class Basis(StrEnum):
    """The part of a query by which the items of an answer were found.

    QUERY: the whole query. CONTEXT: the query's features without its history, its time among them, because
    the query tower knows no item of that history. POPULAR: no part; the hits are the most popular items,
    because the query tower knows no value of the query. NONE: as POPULAR, but in the bundle no item is more
    popular than another, so there are no hits. UNKNOWN: a basis of a newer server, unknown to this client.
    """

    QUERY = "query"
    CONTEXT = "context"
    POPULAR = "popular"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def is_searched(self) -> bool:
        """Whether the index is searched for the answer."""
        return self in SEARCHED


SEARCHED = (Basis.QUERY, Basis.CONTEXT)


class FusionMode(StrEnum):
    """Which scores rank the items of a query with a text.

    DEFAULT: in a request, HYBRID where the bundle has a lexical index, else DENSE; in an answer, that the
    bundle has no lexical index. DENSE: that of the towers alone. LEXICAL: BM25 alone, so that there are no
    hits without a word of the query. HYBRID: both.
    """

    DEFAULT = "default"
    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"

    @classmethod
    def _missing_(cls, value: object) -> "FusionMode":
        raise InvalidInput("fusion", f"expected {', '.join(cls)}, got {str(value)[:40]!r}")


class Hit(NamedTuple):
    """One item of an answer; a tuple, because each query makes ten of them.

    Args:
        score: the inner product of query and item vector, shown as the manifest's `score` says; their cosine
            where the kind is `cosine`; where the answer's fusion is LEXICAL or HYBRID, what
            `protos/retrieval.proto` says of it. For an `item_id` the cosine of the two items; on the basis
            POPULAR the item's share of the interactions that the towers were trained on.
        fields: the item's display fields; a field that the item lacks is left out.
        dense: of a bundle with a lexical index, the inner product of the vectors, or the score where the
            fusion is DENSE; else None.
        lexical: BM25 divided by its upper bound, 0 to 1; 0 where the fusion is DENSE; None if the bundle has
            no lexical index.
        prior: of the item after the same query, as `protos/retrieval.proto` says; None if the bundle has no
            priors.
    """

    id: str
    score: float
    fields: Mapping[str, str]
    dense: float | None = None
    lexical: float | None = None
    prior: float | None = None


class Timing(NamedTuple):
    """Microseconds that the server spent in each stage, for the whole batch that the query was part of.

    Args:
        queue_us: from reading the call until its batch begins. No call is read while a batch is answered.
        encode_us: queries to vectors.
        search_us: vectors to hits.
    """

    queue_us: int = 0
    encode_us: int = 0
    search_us: int = 0


class Answer(NamedTuple):
    """The answer to one query.

    Args:
        hits: best first; none where the basis is NONE.
        bundle_version: of the bundle that answered.
        unknown_history: items of the history that were skipped because the tower does not know them.
        basis: the part of the query by which the hits were found.
        sequence: all changes of live items up to it were applied before the search; 0 without live items.
        plan: how the items that pass the query's filter were searched.
        fusion: which scores ranked the hits; DEFAULT if the bundle has no lexical index.
        weak: whether nothing matches the query's text well, as `protos/retrieval.proto` says.
        request_id: names the answer of a service, for the events that follow from it.
        explored: whether the order of the best items was drawn, for the service's served log.
        propensities: of each hit of an explored answer, the probability of its draw, given the hits before
            it; empty of others.
    """

    hits: tuple[Hit, ...]
    bundle_version: str
    timing: Timing
    unknown_history: int = 0
    basis: Basis = Basis.QUERY
    sequence: int = 0
    plan: Plan = Plan.UNFILTERED
    fusion: FusionMode = FusionMode.DEFAULT
    weak: bool = False
    request_id: str = ""
    explored: bool = False
    propensities: tuple[float, ...] = ()


class Scores(NamedTuple):
    """The towers' scores of items for one query; of a hybrid bundle those that a `Hit` has as `dense`.

    Args:
        items: id and score of each item, in the order of the request; None where the catalogue holds no such
            item.
        kind: `cosine`, `inner_product`, or `probability` of a model that predicts labels; `unknown` is one
            that a newer server names.
        bundle_version, timing, unknown_history, basis, sequence: as of `Answer`; on the bases POPULAR and
            NONE, the scores are those of a query without any value.
    """

    items: tuple[tuple[str, float | None], ...]
    kind: str
    bundle_version: str
    timing: Timing
    unknown_history: int = 0
    basis: Basis = Basis.QUERY
    sequence: int = 0
