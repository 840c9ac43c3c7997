"""`[hybrid]`: BM25 beside the vectors in the answers."""

from dataclasses import dataclass
from typing import Literal

from train.config.checks import at_least, refuse_unused


@dataclass(frozen=True)
class HybridConfig:
    """A lexical index in the bundle, for queries with a text.

    It needs a text on both sides, scores that are cosines, no histories, and validation queries, on which
    k1, b and the weight of the lexical score are chosen. `[baselines] analyzer` says how texts are split.

    Args:
        enabled: `auto` takes it into the bundle if it is better than the towers alone on validation, by a
            paired bootstrap; `true` always does, and fails where it cannot; `false` never does.
        dense_candidates: items of the dense search that are ranked again; 0 takes as many as the search
            returns in the same time as one, and 32 at least.
        lexical_candidates: items that the lexical side adds.
        postings: items of a query's rarer terms among which these are sought.
        queries: largest number of validation queries for the choice.
    """

    enabled: Literal["auto", True, False] = "auto"
    dense_candidates: int = 0
    lexical_candidates: int = 50
    postings: int = 4096
    queries: int = 3_000

    def __post_init__(self) -> None:
        at_least(0, self, "dense_candidates")
        at_least(1, self, "lexical_candidates", "postings", "queries")
        keys = ("dense_candidates", "lexical_candidates", "postings", "queries")
        refuse_unused(self, {'enabled = "auto" or true': (self.enabled is not False, keys)})
