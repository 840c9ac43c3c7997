"""How a table is read that replaces the experiment's table of items, such as that of a refresh.

Its ids and values have to be those that training read, so casts and layout are those of `[data]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from twinspire.train.data.cleaning import Cast, cast_columns
from twinspire.train.data.columns import Columns
from twinspire.train.data.layouts import Layout


@dataclass(frozen=True)
class ItemTable:
    """What `[data]` says of tables of items.

    Args:
        casts: column -> type that it is read as.
        casts_key: key of `[data]` with these casts, for error texts; empty if there is none.
        file: the experiment's table, as `[data]` names it; empty if it has none.
        layout: of that table, if it has one.
    """

    id_column: str = "item_id"
    casts: Mapping[str, Cast] = field(default_factory=dict)
    casts_key: str = ""
    file: str = ""
    layout: Layout | None = None

    def as_file(self, path: Path) -> tuple[Layout | None, str]:
        """Layout, and name in `[data.layouts]`, of a table: the experiment's if the suffix is the same.

        A table with another suffix is written as its suffix says, and has no such name.
        """
        if self.file and path.suffix.lower() == Path(self.file).suffix.lower():
            return self.layout, self.file
        return None, ""

    def cast(self, columns: Columns) -> Columns:
        """The same rows after the casts; casts of columns that are not read are left out.

        Raises:
            DataError: a value cannot be cast.
        """
        read = {name: cast for name, cast in self.casts.items() if name in columns.frame.columns}
        return cast_columns(columns, read)
