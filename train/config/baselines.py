"""`[baselines]`: what a run's baselines read."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BaselinesConfig:
    """The baselines beside a model.

    Args:
        analyzer: how BM25 splits a text; other baselines and the towers do not read it. `auto` decides by the
            texts, and the run says how. `english` replaces words by their stems and drops stop words,
            `characters` keeps all words. Both split scripts without spaces, such as Chinese, into characters
            and pairs of characters. `words` does not split them, for texts in which a segmenter has put
            spaces between words.
    """

    analyzer: Literal["auto", "words", "english", "characters"] = "auto"
