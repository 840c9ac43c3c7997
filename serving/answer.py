"""What is answered: hits, what they rest on, and where the time went."""

from collections.abc import Mapping
from typing import NamedTuple

from serving.basis import Basis


class Hit(NamedTuple):
    """One item of an answer; a tuple, for ten are made for every query.

    Args:
        id: of the item.
        score: the inner product of query and item vector as the manifest's `score` shows it, which
            is their cosine where the kind is `cosine`. For an `item_id` the cosine of the two items;
            on the basis POPULAR the item's share of the interactions that the towers learnt from.
        fields: the item's display fields; one that the item lacks is left out.
    """

    id: str
    score: float
    fields: Mapping[str, str]


class Timing(NamedTuple):
    """Microseconds spent in each stage on the server, for the whole batch that a query was part of.

    Args:
        queue_us: from when the call has been read until its batch begins. While a batch is worked on no call
            is read.
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
        timing: of the batch.
        unknown_history: items of the history that were skipped, for the tower does not know them.
        basis: what the answer rests on.
    """

    hits: tuple[Hit, ...]
    bundle_version: str
    timing: Timing
    unknown_history: int = 0
    basis: Basis = Basis.QUERY
