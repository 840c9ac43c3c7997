"""`[data]` and `[split]`: what is learned from."""

from dataclasses import dataclass
from typing import Literal

from train.config.checks import at_least

VALIDATION = 0.05
TEST = 0.10


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
class MovielensData:
    """MovieLens-100K (Harper and Konstan 2015), fetched with pip as a file of the package recbole.

    Args:
        positive_from: a rating is positive if it is at least this; 0 takes every rating for a positive.
        min_user_events: users with fewer ratings than this go.
        max_items: keep a seeded sample of whole users with about this many items; 0 keeps all.
    """

    kind: Literal["movielens"]
    positive_from: float = 0.0
    min_user_events: int = 2
    max_items: int = 0

    def __post_init__(self) -> None:
        at_least(0, self, "positive_from", "max_items")
        at_least(1, self, "min_user_events")


@dataclass(frozen=True)
class SplitConfig:
    """Which pairs are learned from, which choose the best epoch, which are looked at once.

    Args:
        by: `group` draws whole groups at random; `time` takes the latest pairs for test, those before
            them for validation; `last` takes each user's last event for test, the one before it for
            validation; `last_session` does so with sessions; `file` takes `test_file` for test.
        validation: share of the pairs.
        test: share of the pairs.
        seed: of the draw.
        min_history: with `last_session`, a session is tested on only if the user has this many positive
            events before it.
        cold_items: share of the items that are kept out of training, to see what is made of new ones.
        test_file: with `file`, a table of the same columns; its path is relative to the TOML file.
    """

    by: Literal["group", "time", "last", "last_session", "file"] = "group"
    validation: float = VALIDATION
    test: float = TEST
    seed: int = 0
    min_history: int = 1
    cold_items: float = 0.0
    test_file: str = ""

    def __post_init__(self) -> None:
        at_least(0, self, "seed", "min_history")
        if self.validation <= 0 or self.test <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation: shares must be above 0 and leave something to train on, "
                f"got validation = {self.validation}, test = {self.test}"
            )
        if self.by in ("last", "last_session") and (self.validation, self.test) != (VALIDATION, TEST):
            raise ValueError(f'validation: a split by "{self.by}" takes one of each user, not a share')
        if not 0 <= self.cold_items < 1:
            raise ValueError(f"cold_items: expected a share of at least 0 and below 1, got {self.cold_items}")
        if (self.by == "file") != bool(self.test_file):
            raise ValueError('test_file: goes with by = "file", and by = "file" goes with it')
        if self.min_history != 1 and self.by != "last_session":
            raise ValueError(f'min_history: goes with by = "last_session", not with by = "{self.by}"')
