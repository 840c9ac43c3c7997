"""`[baselines]`: what a run's baselines read."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BaselinesConfig:
    """The baselines beside a model.

    Args:
        analyzer: how BM25 splits a text. `auto` decides by the texts, and the run says how. `english` takes
            stems and drops stop words, `characters` takes words as they are; both split scripts without
            spaces, such as Chinese, into characters and pairs of characters. `words` takes words only, for
            texts that a segmenter has split at spaces.
    """

    analyzer: Literal["auto", "words", "english", "characters"] = "auto"
