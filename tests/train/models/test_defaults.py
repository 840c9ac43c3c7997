"""What an experiment leaves open is chosen from its data."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.helpers.people import data_of_people, random_people
from tests.helpers.stdlib import experiment_at, started, write_sections
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import HistoryFeature, TextFeature
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.history_towers import HistoryTower, SequenceTower
from twinspire.train.config.losses import Bce, FullSoftmax, LossConfig
from twinspire.train.config.towers import BagTower
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.training_data import Pairs, TrainingData, training_data_of
from twinspire.train.models.defaults import (
    FEW_ITEMS,
    LINEAR,
    LONGEST,
    MAX_LINEAR_ITEMS,
    MAX_SOFTMAX_ITEMS,
    RECENT_POPULARITY,
    SAMPLED,
    SHORTEST,
    Chosen,
    from_data,
    max_length,
)
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.paths import CONFIGS

SMALLEST: dict[str, dict[str, Any]] = {
    "query.text": {"kind": "text", "column": "query"},
    "item.text": {"kind": "text", "column": "text"},
    "tower": {"kind": "bag"},
}


def experiment_on(folder: Path, items: list[str], queries: list[str], **changed: Any) -> Path:
    """The smallest TOML, on tables with a query for each item."""
    ids = [f"i{n}" for n in range(len(items))]
    pl.DataFrame({"item_id": ids, "text": items}).write_csv(folder / "items.csv")
    pl.DataFrame({"item_id": ids, "query": queries}).write_csv(folder / "pairs.csv")
    data = {"kind": "files", "items": "items.csv", "pairs": "pairs.csv"}
    return write_sections(
        folder / "a.toml", "a", {**{key: {} for key in changed}, "data": data, **SMALLEST}, changed
    )


def chosen_for(path: Path) -> tuple[Chosen, Experiment, TrainingData]:
    experiment, dataset = experiment_at(path)
    data = training_data_of(dataset, experiment.query, experiment.item)
    return from_data(experiment, data), experiment, data


def english(count: int) -> tuple[list[str], list[str]]:
    words = "alpha beta gamma delta river stone cloud paper green silver open close read write".split()
    random = np.random.default_rng(0)
    items = [" ".join(random.choice(words, 12)) + f" number {n}" for n in range(count)]
    return items, [f"find number {n} {item.split()[0]}" for n, item in enumerate(items)]


def test_every_key_is_set_and_has_a_reason(tmp_path: Path) -> None:
    chosen, experiment, _ = chosen_for(experiment_on(tmp_path, *english(240)))
    assert experiment.tower == BagTower("bag")
    assert experiment.training == TrainingConfig()
    assert set(chosen.reasons) == {
        "query.text.max_length",
        "item.text.max_length",
        *(f"tower.{key}" for key in ("characters", "dimension", "latent", "buckets", "item_hidden")),
        "training.batch_size",
    }
    sections = (chosen.experiment.tower, chosen.experiment.training, chosen.experiment.item["text"])
    assert "null" not in json.dumps([*map(dataclasses.asdict, sections)])
    assert len(chosen.lines()) == len(chosen.reasons)
    assert "tower.dimension = 256  (240 items, at least 64 and at most 512)" in chosen.lines()


@pytest.mark.parametrize(
    ("keys", "dimension", "latent"), [({"dimension": 48}, 48, 48), ({"latent": 300}, 300, 300)]
)
def test_latent_dimensions_fit_where_one_key_is_set(
    tmp_path: Path, keys: dict[str, Any], dimension: int, latent: int
) -> None:
    tower = chosen_for(experiment_on(tmp_path, *english(240), tower=keys))[0].experiment.tower
    assert isinstance(tower, BagTower)
    assert (tower.dimension, tower.latent) == (dimension, latent)


def test_a_key_that_is_set_keeps_its_value(tmp_path: Path) -> None:
    changed: dict[str, Any] = {
        "query.text": {"max_length": 33},
        "tower": {"dimension": 48, "orders": [4], "buckets": 5000, "latent": 7},
        "training": {"epochs": 2, "batch_size": 11},
    }
    chosen, *_ = chosen_for(experiment_on(tmp_path, *english(240), **changed))
    found = chosen.experiment
    assert found.query["text"].max_length == 33  # type: ignore[union-attr]
    assert (found.tower.dimension, found.tower.orders, found.tower.latent) == (48, (4,), 7)  # type: ignore[union-attr]
    assert found.tower.buckets == 5000
    assert (found.training.epochs, found.training.batch_size) == (2, 11)
    assert {"tower.item_hidden", "item.text.max_length"} < set(chosen.reasons)
    assert not {"query.text.max_length", "tower.latent", "training.batch_size"} & set(chosen.reasons)


def test_a_small_set_has_small_tables(tmp_path: Path) -> None:
    model, data, _ = started(experiment_on(tmp_path, *english(240)))
    parameters = {p for tower in model.towers for p in tower.parameters()}
    assert data.item_count == 240
    assert 4 * sum(p.numel() for p in parameters) < 2**22  # bytes; with the tables of a large set 130 MiB
    assert model.experiment.training.batch_size == 32


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], SHORTEST),
        ([3] * 1000, SHORTEST),
        ([900] * 98 + [1000] * 1 + [70_000], 1024),
        ([257] * 100, 320),
        ([10_000] * 100, LONGEST),
    ],
    ids=["none", "short", "a few outliers", "rounded up", "bounded"],
)
def test_texts_are_cut_at_the_99th_percentile_of_their_lengths(lengths: list[int], expected: int) -> None:
    found, reason = max_length(np.array(lengths, np.int64))
    assert found == expected
    if lengths:
        assert f"{np.mean(np.array(lengths) > expected):.1%} are cut" in reason


def test_the_length_of_items_is_that_of_the_served_texts(tmp_path: Path) -> None:
    items, queries = english(60)
    path = experiment_on(tmp_path, items, queries, **{"item.text": {"catalogue_column": "full"}})
    table = pl.read_csv(tmp_path / "items.csv").with_columns(full=pl.col("text").repeat_by(9).list.join(" "))
    table.write_csv(tmp_path / "items.csv")
    chosen, *_ = chosen_for(path)
    longest = table["full"].str.len_chars().max()
    assert chosen.experiment.item["text"].max_length >= longest > 2 * SHORTEST  # type: ignore[union-attr, operator]


def test_chinese_texts_are_hashed_by_characters_and_english_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "zh").mkdir()
    (tmp_path / "en").mkdir()
    items = [f"搜索引擎第{n}号 git push" for n in range(60)]
    chosen, *_ = chosen_for(experiment_on(tmp_path / "zh", items, [f"查找{n}" for n in range(60)]))
    assert chosen.experiment.tower.characters == (1, 2)
    assert "belong to scripts that are split into characters" in chosen.reasons["tower.characters"]["reason"]
    assert architecture_of(chosen.experiment.tower).hashing().characters == (1, 2)
    chosen, *_ = chosen_for(experiment_on(tmp_path / "en", *english(60)))
    assert (chosen.experiment.tower.characters, chosen.experiment.tower.orders) == ((), (3,))


def test_queries_of_validation_and_test_are_not_looked_at(tmp_path: Path) -> None:
    path = experiment_on(tmp_path, *english(60))
    before, experiment, data = chosen_for(path)
    held_out = np.concatenate([data.parts[part].query for part in ("validation", "test")])
    texts = ["搜索" * 4000 if row in held_out else text for row, text in enumerate(data.queries["text"])]
    assert from_data(experiment, dataclasses.replace(data, queries={"text": texts})) == before


def test_large_sets_get_the_tables_of_the_shipped_examples() -> None:
    """`pydocs` in its own size, with random words as texts."""
    random = np.random.default_rng(0)
    items, pairs = 37_668, 32_000
    letters = random.integers(97, 123, (items, 3, 6), dtype=np.uint8)
    texts = [" ".join(bytes(word).decode() for word in words) for words in letters]
    rows = np.arange(pairs)
    train = Pairs(rows, rows, np.ones(pairs, np.float32))
    data = TrainingData({"text": texts[:pairs]}, {"text": texts}, {"train": train}, pairs, items)
    found = from_data(read_experiment(CONFIGS / "pydocs.toml"), data).experiment
    assert found.tower == BagTower("bag", 512, 128, 0, 1024, buckets=65_536, characters=())
    assert (found.training.epochs, found.training.patience, found.training.batch_size) == (3, 2, 1024)
    assert found.query["text"] == TextFeature("text", "query", 128)


@pytest.mark.parametrize(
    ("loss", "batch_size", "reason"),
    [
        (Bce("bce"), 128, "4,000 training pairs: "),
        (FullSoftmax("full_softmax"), 32, "800 positive training pairs: "),
    ],
)
def test_a_batch_is_sized_by_the_pairs_that_the_loss_reads(
    loss: LossConfig, batch_size: int, reason: str
) -> None:
    rows = np.arange(4000)
    label = (rows % 5 == 0).astype(np.float32)
    train = Pairs(rows % 50, rows % 40, np.ones(4000, np.float32), label)
    texts = {"text": ["a text"] * 50}
    data = TrainingData(texts, {"text": ["another"] * 40}, {"train": train}, 50, 40)
    known = read_experiment(CONFIGS / "pydocs.toml")
    experiment = dataclasses.replace(known, loss=loss, training=TrainingConfig())
    found = from_data(experiment, data)
    assert found.experiment.training.batch_size == batch_size
    assert found.reasons["training.batch_size"]["reason"].startswith(reason)


def history_experiment() -> Experiment:
    return read_experiment(CONFIGS / "history.toml")


def films_of(watched: int, items: int) -> TrainingData:
    """People and films with the columns of the recipe; the first films are watched."""
    data = data_of_people(random_people(60, watched), items)
    film: dict[str, Any] = {"title": "a film", "genres": ["Drama"], "year": 1990.0}
    more = {name: [value] * items for name, value in film.items()}
    return dataclasses.replace(data, items={**data.items, **more})


def with_sessions(data: TrainingData) -> TrainingData:
    assert data.histories is not None
    steps = np.arange(len(data.histories.run)) // 2
    return dataclasses.replace(data, histories=dataclasses.replace(data.histories, steps=steps))


@pytest.mark.parametrize("sessions", [False, True], ids=["events", "sessions"])
def test_the_recipe_for_histories_becomes_the_tower_that_suits_them(sessions: bool) -> None:
    data = films_of(40, 40)
    chosen = from_data(history_experiment(), with_sessions(data) if sessions else data)
    tower = chosen.experiment.tower
    assert isinstance(tower, SequenceTower)
    assert tower.history == ("sum" if sessions else "attention")
    assert tower.linear == 40  # as many as items
    assert tower.recent_popularity == RECENT_POPULARITY  # queries of the recipe have times
    assert tower.latent == (40 if sessions else 0)
    history: Any = chosen.experiment.query["history"]
    assert tower.ages == history.times == (not sessions)  # the recipe offers times, and a sum reads none
    assert ("query.history.times" in chosen.reasons) == sessions
    assert {"tower.history", "tower.linear", "loss", "training.batch_size"} <= {*chosen.reasons}
    for line in chosen.lines():
        assert re.fullmatch(r"[\w.]+ = .+  \(.{5,}\)", line)
    assert chosen.experiment.loss == FullSoftmax("full_softmax")
    assert from_data(chosen.experiment, data).experiment == chosen.experiment  # nothing is left open


@pytest.mark.parametrize(
    ("key", "value", "sessions", "follows"),
    [
        ("history", "sum", False, {"query_dropout": 0.5, "latent": 40, "decay": 0.02, "ages": False}),
        ("layers", 1, False, {"history": "attention", "ages": True}),
        ("dimension", 32, False, {"heads": 2}),
        ("linear", 0, True, {"history": "sum", "latent": 40}),
        ("latent", 8, True, {"decay": 0.02}),
        ("recent_popularity", 8, False, {"linear": 40}),
    ],
)
def test_a_key_of_the_recipe_can_be_set_alone(
    key: str, value: Any, sessions: bool, follows: dict[str, Any]
) -> None:
    recipe = dataclasses.replace(history_experiment(), tower=HistoryTower("history", **{key: value}))
    data = with_sessions(films_of(40, 40)) if sessions else films_of(40, 40)
    chosen = from_data(recipe, data)
    tower = chosen.experiment.tower
    assert {name: getattr(tower, name) for name in (key, *follows)} == {key: value, **follows}
    assert f"tower.{key}" not in chosen.reasons


def test_a_key_that_the_data_leave_without_effect_is_refused() -> None:
    recipe = dataclasses.replace(history_experiment(), tower=HistoryTower("history", layers=1))
    with pytest.raises(ConfigError, match=r'history: layers: goes with history = "attention"'):
        from_data(recipe, with_sessions(films_of(40, 40)))
    with pytest.raises(ValueError, match="age_dropout: goes with ages = true"):
        HistoryTower("history", age_dropout=0.2)


@pytest.mark.parametrize("sessions", [False, True], ids=["events", "sessions"])
@pytest.mark.parametrize(
    ("items", "linear"),
    [
        (FEW_ITEMS, FEW_ITEMS),
        (FEW_ITEMS + 1, LINEAR),
        (MAX_LINEAR_ITEMS, LINEAR),
        (92_000, 192),
        (1_000_000, 0),
    ],
)
def test_the_linear_model_of_the_recipe_keeps_its_memory(items: int, linear: int, sessions: bool) -> None:
    data = films_of(40, items)
    tower: Any = from_data(history_experiment(), with_sessions(data) if sessions else data).experiment.tower
    assert tower.linear == linear
    assert (tower.latent > 0) == (sessions and items <= MAX_LINEAR_ITEMS)


@pytest.mark.parametrize(("watched", "length"), [(30, 100), (150, 192), (900, 512)])
def test_the_recipe_reads_as_long_a_history_as_nearly_all_users_have(watched: int, length: int) -> None:
    people = [[*range(watched)]] + [[*range(watched - 8)]] * 60
    data = data_of_people(people, watched)
    film: dict[str, Any] = {"title": "a film", "genres": ["Drama"], "year": 1990.0}
    data = dataclasses.replace(data, items={**data.items, **{k: [v] * watched for k, v in film.items()}})
    found = from_data(history_experiment(), data)
    history: Any = found.experiment.query["history"]
    assert history.max_length == length
    assert ("; 0.0% are cut" in found.reasons["query.history.max_length"]["reason"]) == (watched < 900)
    set_ = dataclasses.replace(
        history_experiment(), query={"history": HistoryFeature("history", 7)}, examples=()
    )
    assert from_data(set_, data).experiment.query["history"] == HistoryFeature("history", 7)


def test_where_queries_have_no_times_nothing_is_popular_lately_or_old() -> None:
    query: Any = {"history": HistoryFeature("history")}
    recipe = dataclasses.replace(history_experiment(), query=query)
    tower: Any = from_data(recipe, films_of(40, 40)).experiment.tower
    assert tower.recent_popularity == 0
    assert not tower.ages


def test_the_recipe_scores_a_sample_of_the_items_where_they_are_many() -> None:
    at_most, more = (
        from_data(history_experiment(), films_of(40, MAX_SOFTMAX_ITEMS + n)).experiment for n in (0, 1)
    )
    assert at_most.loss == FullSoftmax("full_softmax")
    assert more.loss == SAMPLED
    own = dataclasses.replace(history_experiment(), loss=FullSoftmax("full_softmax"))
    kept = from_data(own, films_of(40, MAX_SOFTMAX_ITEMS + 1))
    assert kept.experiment.loss == own.loss
    assert "loss" not in kept.reasons


def test_the_recipe_reads_no_query_of_validation_and_test() -> None:
    data = films_of(40, 40)
    nothing = {name: pairs.where(np.zeros(len(pairs), bool)) for name, pairs in data.parts.items()}
    without = dataclasses.replace(data, parts={**nothing, "train": data.parts["train"]})
    assert from_data(history_experiment(), without) == from_data(history_experiment(), data)


def test_the_recipe_needs_a_history_and_an_id() -> None:
    experiment = history_experiment()
    assert experiment.tower == HistoryTower("history")
    text = TextFeature("text", "t")
    needs = 'tower.kind = "history" needs a feature of kind'
    lacking: list[tuple[dict[str, Any], str]] = [
        ({"query": {"text": text}}, f'query: {needs} "history"'),
        ({"item": {"text": text}}, f'item: {needs} "id"'),
    ]
    for changed, expected in lacking:
        with pytest.raises(ValueError, match=expected):
            dataclasses.replace(experiment, **changed, examples=())
