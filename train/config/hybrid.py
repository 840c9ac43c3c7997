"""`[hybrid]`: BM25 or TF-IDF beside the vectors in the answers."""

from dataclasses import dataclass
from typing import Literal

from twinspire.protos.bundle import MAX_CANDIDATES
from twinspire.train.config.checks import at_least, refuse_unused


@dataclass(frozen=True)
class HybridConfig:
    """A lexical index in the bundle, for queries with a text.

    It needs a text on both sides, scores that are cosines, and no histories. Its lexical score, BM25 or
    TF-IDF, and the weight of that are chosen on validation queries. `[baselines] analyzer` says how texts
    are split.

    Args:
        enabled: `auto` takes it into the bundle if it is better than the towers alone on the validation
            queries, as `export/hybrid/choose.py` says; `true` always does, and fails where it cannot; without
            enough validation queries BM25 has the weight 1/2.
            `false` never does.
        dense_candidates: items of the dense search that are ranked again; 0 takes half of the index's
            `ef_search`, which costs no time, and 32 at least.
        lexical_candidates: items that the lexical side adds.
        most_postings: postings, of a query's rarest terms first, that are read to find them.
        queries: largest number of validation queries for the choice.
    """

    enabled: Literal["auto", True, False] = "auto"
    dense_candidates: int = 0
    lexical_candidates: int = 50
    most_postings: int = 4096
    queries: int = 3_000

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, str | bool):
            raise ValueError(f'enabled: expected "auto", true or false, got {self.enabled!r}')
        at_least(0, self, "dense_candidates")
        at_least(1, self, "lexical_candidates", "most_postings", "queries")
        for key in ("dense_candidates", "lexical_candidates", "most_postings"):
            if getattr(self, key) > MAX_CANDIDATES:
                raise ValueError(f"{key}: expected at most {MAX_CANDIDATES:,}, got {getattr(self, key):,}")
        keys = ("dense_candidates", "lexical_candidates", "most_postings", "queries")
        refuse_unused(self, {'enabled = "auto" or true': (self.enabled is not False, keys)})
