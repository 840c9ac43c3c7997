"""What the data are: `[data]` and `[split]`, `[filter]`, `[events]` and `[judged]`.

Each kind of `[data]` is a module of `train/data/sources/`, which defines and documents its keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from twinspire.protos import names
from twinspire.protos.bundle import MAX_FILTER_FIELDS
from twinspire.protos.features import Side
from twinspire.protos.filter_kinds import FilterKind
from twinspire.protos.inputs.event_types import EventTypes
from twinspire.train.config.checks import at_least, below_one, refuse_unused


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
            `random` draws one event of each user for test and another for validation, whatever their order.
        validation: share of the pairs, with `group` of the groups; not with `last`, `last_session` and
            `random`, which take one event of each user.
        test: the same for test.
        seed: of the random draw.
        min_history: with `last_session`, a session is tested on only if the user has at least this many
            positive events before it.
        cold_items: share of the items that are kept out of training; their pairs are the part `cold`, on
            which the quality for new items is measured.
        history: with `time`, what a record of validation and test has as its history. `cut` ends where its
            part begins. `event` has all events that are strictly earlier than the record's own, as in a
            service that learns of each event at once; training records have the same.
    """

    by: Literal["group", "time", "last", "last_session", "random"] = "group"
    validation: float = 0.05
    test: float = 0.10
    seed: int = 0
    min_history: int = 1
    cold_items: float = 0.0
    history: Literal["cut", "event"] = "cut"

    def __post_init__(self) -> None:
        at_least(0, self, "seed", "min_history")
        if self.validation <= 0 or self.test <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation: shares must be above 0 and leave some pairs for training, "
                f"got validation = {self.validation}, test = {self.test}"
            )
        below_one(self, "cold_items")
        conditions = {
            'by = "group" or "time"': (self.by in ("group", "time"), ("validation", "test")),
            'by = "time"': (self.by == "time", ("history",)),
            'by = "last_session"': (self.by == "last_session", ("min_history",)),
        }
        refuse_unused(self, conditions)


@dataclass(frozen=True)
class FilterConfig:
    """`[filter]`: columns of the items by whose values a search can filter; they go into the bundle.

        [filter]
        fields = ["section", "price", "tags"]
        types = { price = "number", tags = "strings" }

    Args:
        fields: columns of the items.
        types: column -> `string`, `strings` (in CSV separated by "|"), `number`, `boolean` or `time`. Without
            it a column has the type of the feature that reads it, or else the type that its table stores; all
            columns of CSV and TSV are strings.
    """

    fields: tuple[str, ...] = ()
    types: dict[str, FilterKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(self.fields) or len(set(self.fields)) < len(self.fields):
            raise ValueError(f"fields: expected distinct names of columns, got {list(self.fields)}")
        if len(self.fields) > MAX_FILTER_FIELDS:
            raise ValueError(f"fields: expected at most {MAX_FILTER_FIELDS}, got {len(self.fields)}")
        for name in self.types:
            if name not in self.fields:
                raise ValueError(f"types.{name}: expected one of the fields {list(self.fields)}")


@dataclass(frozen=True)
class RecordedEventsConfig:
    """`[events]`: which types of recorded events make the history of a query with a user.

        [events]
        types = { click = 1, purchase = 1, dislike = -1 }

    Of the kinds of `[data]`, `service` alone is trained on recorded events; to it they mean the same. Where
    `[data]` has a label, a recorded event with a value counts as one of the data with that label does.

    Args:
        types: type -> 1 if its events are a part of the history, -1 if their items are in no answer to their
            user. Events of other types do not count. Without any, all types are a part of the history.
    """

    types: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        EventTypes(self.types)


@dataclass(frozen=True)
class JudgedConfig:
    """`[judged]`: a folder in BEIR layout: `queries.jsonl` and `qrels/<split>.tsv`.

    Its documents are the experiment's own items, matched by id. It is never trained on, and nothing is chosen
    by it.

    Args:
        folder: path of the folder, relative to the TOML file; one that is not there is looked for in the
            folder that the environment variable TWINSPIRE_DATA names.
        split: name of the file in `qrels`, without `.tsv`.
    """

    folder: str
    split: str = "test"

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("folder: expected the path of a folder, got an empty string")
        try:
            names.file_name(self.split)
        except ValueError as error:
            raise ValueError(f"split: {error}") from None
