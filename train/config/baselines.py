"""`[baselines]`: which baselines a run measures beside its model, and what they read."""

from dataclasses import dataclass
from typing import Literal

NAMES = (
    *("base_rate", "bm25", "bm25_full", "ease", "ease_recency", "ease_recent", "itemknn", "itemmean"),
    *("popularity", "query_popularity", "recent_popularity", "slist", "tfidf", "user_item", "user_item_knn"),
)
"""Of the baselines in `train/evaluation/baselines/`, and of those in `label_baselines.py` beside it."""


@dataclass(frozen=True)
class BaselinesConfig:
    """The baselines beside a model.

    Args:
        analyzer: how BM25 and TF-IDF find the words of a text; the towers do not read it. `auto` chooses on
            validation, and the run says what. `english` replaces words by their stems and drops stop words,
            `characters` keeps all words. Both split scripts without spaces, such as Chinese, into characters
            and pairs of characters. `words` does not split them, for texts in which a segmenter has put
            spaces between words.
        run: names of the baselines to measure, of those that rank and of those that predict labels; empty
            for all that apply to the data.
    """

    analyzer: Literal["auto", "words", "english", "characters"] = "auto"
    run: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.run:
            if name not in NAMES:
                raise ValueError(f"run: there is no baseline {name!r}; there are {', '.join(NAMES)}")

    def measures(self, name: str) -> bool:
        """Whether `run` does not leave a baseline out."""
        return not self.run or name in self.run
