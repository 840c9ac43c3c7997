"""`[data]` and `[split]`: the data set, and its split into training, validation and test.

Each kind of `[data]` is a module of `train/data/sources/`, which defines and documents its keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from twinspire.protos.features import Side
from twinspire.train.config.checks import at_least

VALIDATION = 0.05
TEST = 0.10


@dataclass(frozen=True)
class DataConfig:
    """The keys that `[data]` has for every kind.

    Args:
        kind: name of the source's module in `train/data/sources/`.
        max_items: keep a seeded sample of whole groups (a user is a group) with about this many items; 0
            keeps all.

    Attributes:
        sections: of the TOML file that it may leave out with this kind of data, and what they are then.
    """

    kind: str
    sections: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    max_items: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        at_least(0, self, "max_items")

    def target_columns(self, side: Side) -> Mapping[str, str]:
        """Columns of a side's table that hold what is predicted -> the key that names each.

        They are not known when a query is asked, so no feature of the side may read them.
        """
        return {}


@dataclass(frozen=True)
class SplitConfig:
    """Which pairs are for training, for choosing the best epoch (validation), and for the final test.

    Args:
        by: `group` draws whole groups by a hash, and leaves queries of test and validation out of training;
            `time` takes the latest pairs for test, those before them for validation; `last` takes each user's
            last event for test, the one before it for validation; `last_session` does so with sessions;
            `random` draws one event of each user for test and another for validation, whatever their order;
            `file` takes `test_file` for test.
        validation: share of the pairs, with `group` of the groups; not with `last`, `last_session` and
            `random`, nor of events with `file`, which take one event of each user.
        test: share of the pairs, with `group` of the groups; not with `last`, `last_session`, `random` and
            `file`.
        seed: of the random draw.
        min_history: with `last_session`, a session is tested on only if the user has at least this many
            positive events before it.
        cold_items: share of the items that are kept out of training; their pairs are the part `cold`, on
            which the quality for new items is measured.
        history: with `time`, what a record of validation and test has as its history. `cut` ends where its
            part begins. `event` has all events that are strictly earlier than the record's own, as in a
            service that learns of each event at once; training records have the same.
        test_file: with `file`, a table with the same columns; its path is relative to the TOML file.
    """

    by: Literal["group", "time", "last", "last_session", "random", "file"] = "group"
    validation: float = VALIDATION
    test: float = TEST
    seed: int = 0
    min_history: int = 1
    cold_items: float = 0.0
    history: Literal["cut", "event"] = "cut"
    test_file: str = ""

    def __post_init__(self) -> None:
        at_least(0, self, "seed", "min_history")
        if self.validation <= 0 or self.test <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation: shares must be above 0 and leave some pairs for training, "
                f"got validation = {self.validation}, test = {self.test}"
            )
        if self.by in ("last", "last_session", "random") and (self.validation, self.test) != (
            VALIDATION,
            TEST,
        ):
            raise ValueError(f'validation: a split by "{self.by}" takes one of each user, not a share')
        if not 0 <= self.cold_items < 1:
            raise ValueError(f"cold_items: expected a share of at least 0 and below 1, got {self.cold_items}")
        if self.by == "file" and self.test != TEST:
            raise ValueError('test: a split by "file" takes test_file for test, not a share')
        if (self.by == "file") != bool(self.test_file):
            raise ValueError('test_file: goes with by = "file", and by = "file" goes with it')
        if self.history != "cut" and self.by != "time":
            raise ValueError(f'history: goes with by = "time", not with by = "{self.by}"')
        if self.min_history != 1 and self.by != "last_session":
            raise ValueError(f'min_history: goes with by = "last_session", not with by = "{self.by}"')
