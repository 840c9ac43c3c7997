"""What all kinds of `[tower]` have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from twinspire.protos.features import FeatureSpec, Side, TextFeature
from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.config.checks import at_least
from twinspire.train.config.losses import LossConfig

MAX_NGRAM = 16  # characters; for longer n-grams too few hash multipliers are exact in single precision
MAX_CHARACTERS = 4  # the same for scripts without spaces, whose characters have more numbers


def refuse_tokens(query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
    """Refuse texts that are to be read as token ids, which only a pretrained encoder understands.

    Raises:
        ValueError: there is one.
    """
    for side, features in (("query", query), ("item", item)):
        for name, spec in features.items():
            if isinstance(spec, TextFeature) and spec.reads_tokens:
                raise ValueError(f'{side}.{name}.input: "{spec.input}" goes with [tower] kind "transformer"')


class TowerSection:
    """Base of all kinds. A key with the default `FROM_DATA` is chosen from the data where it is not set."""

    usual_loss: ClassVar[LossConfig]  # where the TOML has no `[loss]`
    predicts_probability: ClassVar[bool] = False  # whether the score of a query and an item is a sigmoid

    def with_inputs(self, side: Side, features: Mapping[str, FeatureSpec]) -> dict[str, FeatureSpec]:
        """The features of a side, with the text inputs of this kind of tower; by default unchanged."""
        return dict(features)

    def in_folder(self, folder: Path) -> Self:
        """The section with its paths, which are relative to the folder of the TOML file, made absolute."""
        return self

    @property
    def features_folder(self) -> Path:
        """Where the files of the features are: by default paths begin at the working directory."""
        return Path()

    @property
    def reads_time(self) -> bool:
        """Whether the query tower reads the time of a query."""
        return False

    @property
    def reads_ages(self) -> bool:
        """Whether the query tower reads the times of a history's events."""
        return False

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Check that the towers can be built; by default not for negative histories and token ids.

        Raises:
            ValueError: they cannot; the text names the key of the `[tower]` section.
        """
        if any(spec.kind == "negative_history" for spec in query.values()):
            raise ValueError('tower.kind: expected "clicks" for a negative history')
        refuse_tokens(query, item)


@dataclass(frozen=True)
class TextHashing(TowerSection):
    """Base of the kinds that hash the n-grams and words of texts.

    Args:
        orders: lengths of the character n-grams, including `#` at word boundaries.
        words: also hash whole words.
        buckets: rows of the hashed table.
        characters: lengths of the n-grams of scripts without spaces, such as Chinese, which are then no part
            of words and of other n-grams; empty treats all scripts alike.
    """

    orders: tuple[int, ...] = field(default=(3,), kw_only=True)
    words: bool = field(default=True, kw_only=True)
    buckets: int = field(default=8192, kw_only=True)
    characters: tuple[int, ...] = field(default=FROM_DATA, kw_only=True)

    def __post_init__(self) -> None:
        at_least(2, self, "buckets")
        check_orders(self)


def check_orders(section: Any) -> None:
    """Refuse lengths of n-grams that the word hashing does not support, and a section without any."""
    for name, longest in (("orders", MAX_NGRAM), ("characters", MAX_CHARACTERS)):
        lengths = getattr(section, name)
        if lengths is not FROM_DATA and not all(1 <= each <= longest for each in lengths):
            raise ValueError(f"{name}: expected lengths of 1 to {longest}, got {list(lengths)}")
    if section.orders == () and getattr(section, "words", False) is False:
        raise ValueError(f"orders: expected lengths of 1 to {MAX_NGRAM}, got []")
