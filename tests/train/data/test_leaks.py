"""Nothing of validation and test reaches what the towers read and start from; labels are no features."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.helpers.stdlib import completed, experiment_at
from twinspire.protos.errors import ConfigError
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.baselines import BaselinesConfig
from twinspire.train.data.dataset import Dataset
from twinspire.train.evaluation.label_baselines import label_baselines
from twinspire.train.training.trained_model import build_model

USERS, ITEMS, EVENTS = 120, 90, 10
COLUMNS = ("user", "item", "at", "liked", "stars", "verdict", "age", "title", "place")
TOML = """
name = "coins"

[data]
kind = "events"
events = "log.csv"
user = "user"
item = "item"
time = "at"
label = "liked"
positive_from = 1
repeats = "keep"
item_columns = { stars = "RULE", verdict = "most_common", title = "first" }

[split]
by = "time"
test = 0.25

[query.history]
kind = "history"

[query.place]
kind = "category"
column = "place"

[query.age]
kind = "number"
column = "age"

[item.id]
kind = "id"

[item.stars]
kind = "KIND"
column = "stars"

[item.words]
kind = "text"
column = "verdict"

[item.verdict]
kind = "category"
column = "verdict"

[item.title]
kind = "text"
column = "title"

[tower]
kind = "clicks"

[training]
selection = "log_loss"
"""


def coin_flips(change: Callable[[list[Any]], list[Any]] = lambda row: row, seed: int = 0) -> list[list[Any]]:
    """Events whose label is a coin flip. `stars` and `verdict` say the label under other names.

    Args:
        change: is applied to the last quarter of the rows, which validation and test hold.
    """
    draw = np.random.default_rng(0)
    count = USERS * EVENTS
    rows = []
    for n in range(count):
        user, item, liked = draw.integers(USERS), draw.integers(ITEMS), int(draw.integers(2))
        own = [f"u{user}", f"i{item}", 1000 + n, liked, liked, f"v{liked}", draw.integers(20, 60)]
        row = [*own, f"title {item}", f"p{draw.integers(4)}"]
        rows.append(change(row) if n >= 0.75 * count else row)
    return rows


def built(folder: Path, rows: list[list[Any]], rule: str = "mean") -> tuple[Experiment, Dataset]:
    folder.mkdir(exist_ok=True)
    lines = "\n".join(",".join(map(str, row)) for row in rows)
    (folder / "log.csv").write_text(f"{','.join(COLUMNS)}\n{lines}\n")
    kind = "number" if rule in ("mean", "median") else "category"
    (folder / "coins.toml").write_text(TOML.replace("RULE", rule).replace("KIND", kind))
    return experiment_at(folder / "coins.toml")


def test_values_of_items_are_those_of_their_training_events(tmp_path: Path) -> None:
    rows = coin_flips()
    rows[-1][1] = rows[-2][1] = "new"  # in test alone
    rows[-1][7] = rows[-2][7] = "new title"
    _, dataset = built(tmp_path, rows)
    train = dataset.part("train")
    means = train.group_by("item_row").agg(pl.len(), pl.col("label").mean())  # `stars` is the label
    for row, _, mean in means.iter_rows():
        assert dataset.items["stars"][row] == pytest.approx(mean)
    of_new = dataset.items.row(by_predicate=pl.col("item_id") == "new", named=True)
    assert (of_new["stars"], of_new["verdict"], of_new["title"]) == (None, "", "new title")
    changed = dataset.report["changed"]
    assert changed["item without 'stars' in training events, which has none"] == 1
    assert changed["item without 'title' in training events, which has that of its other events"] == 1


def test_events_of_validation_and_test_change_no_start_and_no_training_value(tmp_path: Path) -> None:
    """Vocabularies, normalisation, IDF, choices from the data, and start values."""

    def change(row: list[Any]) -> list[Any]:
        return [*row[:4], 5, "leak", 1000 * int(row[6]), "leaked " * 40, "leak"]

    found = []
    for name, rows in (("plain", coin_flips()), ("changed", coin_flips(change))):
        experiment, dataset = built(tmp_path / name, rows)
        experiment, data = completed(experiment, dataset)
        alone = replace(experiment, baselines=BaselinesConfig(run=("itemmean",)))
        model, (_, prepared) = build_model(experiment, data)
        train = data.parts["train"]
        fitted = label_baselines(alone, data)["itemmean"].predict(train)
        found.append((data.training_values(), model, prepared.arrays, fitted))
    (values, model, items, fitted), (others, other, other_items, refitted) = found
    assert values == others
    assert (model.schema, model.experiment) == (other.schema, other.experiment)
    for tower, again in zip(model.towers, other.towers, strict=True):
        for (name, tensor), second in zip(
            tower.state_dict().items(), again.state_dict().values(), strict=True
        ):
            assert tensor.equal(second), name
    for name, array in items.items():
        assert np.array_equal(array, other_items[name]), name
    np.testing.assert_allclose(fitted, refitted)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('column = "age"', 'column = "liked"', r'query\.age: reads column "liked", which data\.label'),
        ('column = "age"', 'column = "item"', r'query\.age: reads column "item", which data\.item names'),
        ("stars", "liked", r'item\.liked: reads column "liked", which data\.label names'),
        (
            "[split]",
            'derive = { h = { of = "liked", take = "hour" } }\n[split]',
            r"data\.derive\.h\.of: expected another column than that of data\.label",
        ),
    ],
)
def test_what_is_predicted_is_no_feature(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "coins.toml"
    whole = TOML.replace("RULE", "mean").replace("KIND", "number")
    path.write_text(whole)
    read_experiment(path)
    path.write_text(whole.replace(old, new))
    with pytest.raises(ConfigError, match=rf"coins\.toml: {message}"):
        read_experiment(path)
