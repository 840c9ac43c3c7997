"""`[baselines]`: which baselines a run measures beside its model, and what they read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_MODULES = Path(__file__).parents[1] / "evaluation" / "baselines"
LABEL_BASELINE_NAMES = ("base_rate", "itemmean", "user_item", "user_item_knn")
"""Baselines that predict labels, of `train/evaluation/label_baselines.py`; the others rank."""


def baseline_names() -> list[str]:
    """The names of all baselines; those that rank are named as their modules, which are not imported."""
    return sorted([*LABEL_BASELINE_NAMES, *(path.stem for path in _MODULES.glob("[a-z]*.py"))])


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
        names = baseline_names()
        for name in self.run:
            if name not in names:
                raise ValueError(f"run: there is no baseline {name!r}; there are {', '.join(names)}")

    def measures(self, name: str) -> bool:
        """Whether `run` does not leave a baseline out."""
        return not self.run or name in self.run
