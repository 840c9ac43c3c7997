"""`[hybrid]`: BM25 or TF-IDF beside the vectors in the answers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HybridConfig:
    """A lexical index in the bundle, for queries with a text.

    It needs a text on both sides, scores that are cosines, and no histories. Its lexical score, BM25 or
    TF-IDF, and the weight of that are chosen on validation queries. `[baselines] analyzer` says how texts
    are split.

    Args:
        enabled: `auto` takes it into the bundle if it is better than the towers alone on the validation
            queries, as `export/hybrid/choose.py` says; `true` always does, and fails where it cannot; without
            enough validation queries BM25 has the weight 1/2. `false` never does.
    """

    enabled: Literal["auto", True, False] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, str | bool):
            raise ValueError(f'enabled: expected "auto", true or false, got {self.enabled!r}')
