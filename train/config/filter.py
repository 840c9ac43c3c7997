"""`[filter]`: fields of items that a search can filter by."""

from dataclasses import dataclass, field

from twinspire.protos.bundle import MAX_FILTER_FIELDS
from twinspire.protos.filter_kinds import FilterKind


@dataclass(frozen=True)
class FilterConfig:
    """Columns of the items whose values go into the bundle, so that a search can ask for some of the items.

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
