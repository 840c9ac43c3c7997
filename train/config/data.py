"""`[data]` and `[split]`: what is learned from."""

from dataclasses import dataclass
from typing import Literal

from train.config.checks import at_least


@dataclass(frozen=True)
class PydocsData:
    """Docstrings of the installed packages and of the standard library.

    Args:
        max_items: keep a seeded sample of whole groups with about this many items; 0 keeps all.
    """

    kind: Literal["pydocs"]
    max_items: int = 0

    def __post_init__(self) -> None:
        at_least(0, self, "max_items")


@dataclass(frozen=True)
class DebianData:
    """Package descriptions of the Debian archive, read through apt.

    Args:
        max_items: keep a seeded sample of whole groups with about this many items; 0 keeps all.
    """

    kind: Literal["debian"]
    max_items: int = 0

    def __post_init__(self) -> None:
        at_least(0, self, "max_items")


@dataclass(frozen=True)
class FilesData:
    """Tables of the user's own: CSV, TSV, JSONL or Parquet, told apart by their ending.

    Paths are relative to the TOML file. Columns that a feature reads are named in the feature.

    Args:
        items: the table of items.
        pairs: the table of (query, item) pairs.
        item_id: the items table's column of unique ids.
        pair_item_id: the pairs table's column of item ids; the name of `item_id` if empty.
        display: columns of the items table that an answer shows beside an id.
        label: column of the pairs table; a pair whose label is not above 0 is no positive.
        weight: column of the pairs table; a pair counts this much in the loss.
        group: column of the pairs table; a group is never torn apart by the split.
        time: column of the pairs table, numbers or ISO dates; needed for a split by time.
        max_items: keep a seeded sample of whole groups with about this many items; 0 keeps all.
    """

    kind: Literal["files"]
    items: str
    pairs: str
    item_id: str = "item_id"
    pair_item_id: str = ""
    display: tuple[str, ...] = ()
    label: str = ""
    weight: str = ""
    group: str = ""
    time: str = ""
    max_items: int = 0

    def __post_init__(self) -> None:
        at_least(0, self, "max_items")


@dataclass(frozen=True)
class SplitConfig:
    """Which pairs are learned from, which choose the best epoch, which are looked at once.

    Args:
        by: `group` draws whole groups at random; `time` takes the latest pairs for test, those before
            them for validation.
        validation: share of the pairs.
        test: share of the pairs.
        seed: of the draw.
    """

    by: Literal["group", "time"] = "group"
    validation: float = 0.05
    test: float = 0.10
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(0, self, "seed")
        if self.validation <= 0 or self.test <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation: shares must be above 0 and leave something to train on, "
                f"got validation = {self.validation}, test = {self.test}"
            )
