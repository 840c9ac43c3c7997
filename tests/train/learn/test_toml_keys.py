"""The page of the TOML's keys, from the dataclasses that read it."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.learn.toml_keys import AUTOMATIC, REQUIRED, Key, Table, markdown, tables

TABLES = [*tables()]


@dataclass(frozen=True)
class Inner:
    """A table inside.

    Args:
        rate, share: of something; both
            have two lines.
    """

    kind: Literal["inner"]
    rate: float = 0.5
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    """A table of two kinds of value.

    It says more in a second paragraph.

    Args:
        size: number of things.
        inner: table -> what is in it.
        listed: several of them.
    """

    size: int = FROM_DATA
    inner: dict[str, Inner] = field(default_factory=dict)
    listed: tuple[Inner, ...] = ()
    silent: bool = False


def test_keys_of_a_dataclass_and_of_those_inside() -> None:
    outer, named, listed = tables(Outer, "outer")
    assert outer == Table(
        "[outer]",
        "A table of two kinds of value.",
        (
            Key("size", "integer", AUTOMATIC, "number of things."),
            Key("inner", "table: table", "`{}`", "table -> what is in it."),
            Key("listed", "list: table", "`[]`", "several of them."),
            Key("silent", "true or false", "`false`", ""),
        ),
    )
    assert named.title == '[outer.inner.NAME] kind = "inner"'
    assert listed.title == '[[outer.listed]] kind = "inner"'
    assert named.keys == listed.keys
    assert named.keys[0] == Key("kind", '`"inner"`', REQUIRED, "Selects this table's keys.")
    assert named.keys[1] == Key("rate", "number", "`0.5`", "of something; both have two lines.")
    assert named.keys[2].default == ""


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title or "top")
def test_each_key_of_the_toml_has_a_meaning(table: Table) -> None:
    assert table.summary
    assert [key.name for key in table.keys if not key.meaning] == []


def test_each_kind_of_data_tower_and_loss_has_its_table() -> None:
    titles = " ".join(table.title for table in TABLES)
    for kind in (
        '[data] kind = "files"',
        '[data] kind = "events"',
        '[tower] kind = "history"',
        '[loss] kind = "bpr"',
    ):
        assert kind in titles
    (training,) = [table for table in TABLES if table.title == "[training]"]
    assert ("batch_size", AUTOMATIC) in [(key.name, key.default) for key in training.keys]


def test_the_page_has_a_row_for_each_key() -> None:
    page = markdown()
    assert page.count("\n## ") == len({(table.summary, table.keys) for table in TABLES})
    for table in TABLES:
        for key in table.keys:
            assert f"| `{key.name}` | " in page
