"""An experiment's TOML is checked whole, and what is wrong with it is told by file and key."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.stdlib import write_toml
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import (
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    TextFeature,
    TimeFeature,
)
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.bundle import ExportConfig, HybridConfig, PrecisionConfig
from twinspire.train.config.data import FilterConfig, SplitConfig
from twinspire.train.config.gates import GatesConfig
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.config.index import IndexConfig
from twinspire.train.config.training import TrainingConfig
from twinspire.train.paths import CONFIGS

SHIPPED = sorted(CONFIGS.glob("*.toml"))
SECTIONS = (
    ExportConfig,
    FilterConfig,
    GatesConfig,
    IndexConfig,
    PrecisionConfig,
    SplitConfig,
    TrainingConfig,
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_can_be_read(path: Path) -> None:
    experiment = read_experiment(path)
    assert experiment.name == path.stem
    if not any(isinstance(spec, HistoryFeature) for spec in experiment.query.values()):
        assert len(experiment.examples) >= 5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tower": {"dimension": 0}}, "tower.dimension: expected at least 1, got 0"),
    ({"tower": {"latent": 65}}, "tower.latent: expected 0 to dimension = 64, got 65"),
    ({"tower": {"characters": [5]}}, r"tower.characters: expected lengths of 1 to 4, got \[5\]"),
    ({"loss": {"hard_negatives": 5, "mine_from": 4}}, "loss.mine_from: expected at least 5, got 4"),
    ({"loss": {"hard_negatives": 0, "mine_from": 50}}, "loss.mine_from: goes with hard_negatives above 0"),
    ({"loss": {"correction": "logq"}}, 'loss.correction: expected "none" with hard_negatives'),
    ({"training": {"learning_rate": -1e-3}}, "training.learning_rate: expected a number above 0"),
    ({"training": {"epochs": 2.5}}, "training.epochs: expected an integer, got 2.5"),
    (
        {"training": {"epoch": 3}},
        "training.epoch: unknown key; known here: average_epochs, batch_size",
    ),
    ({"loss": {"kind": "bprs"}}, "loss.kind: expected one of 'full_softmax', 'in_batch_softmax'"),
    ({"tower": {"dimension": "wide"}}, "tower.dimension: expected an integer, got 'wide'"),
    (
        {"training": {"selection": "log_loss"}},
        'training.selection: "log_loss" needs towers that predict a probability: tower.kind = "clicks"',
    ),
    ({"index": {"m": 1}}, "index.m: expected at least 2, got 1"),
    ({"index": {"kind": "remote"}}, "index.kind: expected one of hnsw, milvus, pgvector, got 'remote'"),
    ({"index": {"kind": "exact"}}, 'index.kind: expected "hnsw" for exact search'),
    (
        {"index": {"kind": "milvus", "search": "auto"}, "hybrid": {"enabled": True}},
        'hybrid.enabled: expected "auto" or false with index.kind = "milvus", got true',
    ),
    ({"gates": {"recall_target": 1.2}}, "gates.recall_target: expected above 0 and at most 1, got 1.2"),
    (
        {"gates": {"quality_metric": "auc"}},
        "gates.quality_metric: expected one of 'selection', 'recall_at_1'",
    ),
    ({"gates": {"quality_margin": -0.1}}, "gates.quality_margin: expected 0 to below 1, got -0.1"),
    ({"gates": {"max_size_mib": "large"}}, "gates.max_size_mib: expected a number, got 'large'"),
    (
        {"gates": {"margin": 1}},
        "gates.margin: unknown key; known here: filtered_recall_target, interleaving_error, iterations",
    ),
    ({"gates": {"interleaving_error": 0}}, "gates.interleaving_error: expected between 0 and 1, got 0"),
    ({"events.types": {"click": 2}}, "events.types.click: expected 1 or -1, got 2"),
    ({"split": {"test": 0.9}}, "split.validation: shares must be above 0"),
    ({"query.text": {"kind": "image"}}, "query.text.kind: expected one of 'text', 'category', 'number'"),
]


@pytest.mark.parametrize(("changed", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_does_not_fit_is_named(stdlib: Path, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"a\.toml: {said}"):
        read_experiment(write_toml(stdlib, tmp_path / "a.toml", **changed))


@pytest.mark.parametrize("name", ["", "a/b", "a b", "../up", "models:", "-x"])
def test_a_name_must_fit_files_and_registries(stdlib: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name: expected 1 to 255 letters"):
        read_experiment(write_toml(stdlib, tmp_path / "a.toml", name))


HISTORY, ID, TEXT = HistoryFeature("history"), IdFeature("id"), TextFeature("text", "text")
TIME = TimeFeature("time")
REJECTED = HistoryFeature("negative_history")
FEATURES: list[tuple[str, dict[str, FeatureSpec], str]] = [
    ("query", {}, "query: expected at least one feature"),
    ("query", {"a": REJECTED, "b": REJECTED}, "query: expected at most one negative history"),
    ("query", {"text": TEXT, "a": REJECTED}, 'tower.kind: expected "clicks" for a negative history'),
    ("query", {"id": ID, "text": TEXT}, 'query.id: a feature of kind "id" belongs to the other side'),
    ("item", {"past": HISTORY}, 'item.past: a feature of kind "history" belongs to the other side'),
    ("query", {"asked": TIME}, r"query\.asked: a time alone is no query"),
    (
        "query",
        {"text": TEXT, "asked": TIME},
        r'query\.asked: .* "time" needs tower.kind = "history", or "sequence"',
    ),
]


@pytest.mark.parametrize(("side", "features", "said"), FEATURES, ids=[said for *_, said in FEATURES])
def test_both_sides_need_features_of_their_own(
    side: str, features: dict[str, FeatureSpec], said: str
) -> None:
    experiment = read_experiment(SHIPPED[0])
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(experiment, **dict[str, Any]({side: features}))
    dataclasses.replace(experiment, query={"past": HISTORY}, item={"id": ID}, examples=())


def test_a_negative_history_needs_a_split_in_the_order_of_events() -> None:
    experiment = read_experiment(CONFIGS / "movielens-clicks.toml")
    (name,) = (name for name, spec in experiment.query.items() if spec.kind == "negative_history")
    with pytest.raises(ValueError, match=rf"query\.{name}: a negative history needs a split in the order"):
        dataclasses.replace(experiment, split=SplitConfig(by="random"))


@pytest.mark.parametrize("name", ["latent", "linear", "recent_popularity"])
def test_coordinates_of_a_sequence_need_a_history_a_time_and_an_id(name: str) -> None:
    keys: Any = {name: 4}
    query: Any = {"past": HISTORY, **({"asked": TIME} if name == "recent_popularity" else {})}
    tower, known = SequenceTower("sequence", **keys), read_experiment(SHIPPED[0])
    experiment = dataclasses.replace(known, query=query, item={"id": ID}, tower=tower, examples=())
    for side in ("query", "item"):
        lacking: dict[str, Any] = {side: {"text": TEXT}}
        with pytest.raises(ValueError, match=rf"tower\.{name}: expected 0 without a"):
            dataclasses.replace(experiment, **lacking)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"query": {"past": HISTORY, "text": TEXT}}, r"query\.text: a query of .* is a history alone"),
        ({"item": {"text": TEXT}}, r'item: \[tower\] kind "comirec" needs a feature of kind "id"'),
        ({"index": IndexConfig(kind="milvus")}, r'index\.kind: expected "hnsw" with \[tower\] kind'),
        ({"hybrid": HybridConfig(enabled=True)}, r'hybrid\.enabled: expected "auto" or false with'),
    ],
)
def test_several_vectors_of_a_query_are_those_of_a_history(section: dict[str, Any], expected: str) -> None:
    experiment = read_experiment(CONFIGS / "movielens-comirec.toml")
    with pytest.raises(ValueError, match=expected):
        dataclasses.replace(experiment, **section)


@pytest.mark.parametrize("example", [{"txt": "b"}, {}])
def test_an_example_gives_features_of_the_query(example: dict[str, Any]) -> None:
    experiment = read_experiment(CONFIGS / "pydocs.toml")
    with pytest.raises(ValueError, match=r"examples\[1\]: expected values of \['text'\]"):
        dataclasses.replace(experiment, examples=({"text": "a"}, example))


def test_whatever_has_a_default_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'name = "a"\n[data]\nkind = "pydocs"\n[query.text]\nkind = "text"\ncolumn = "query"\n'
        '[item.text]\nkind = "text"\ncolumn = "text"\n[tower]\nkind = "bag"\n'
        '[loss]\nkind = "in_batch_softmax"\n'
    )
    found = read_experiment(tmp_path / "a.toml")
    assert isinstance(found, Experiment)
    assert (found.training, found.export, found.index) == (TrainingConfig(), ExportConfig(), IndexConfig())
    assert found.gates == GatesConfig()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_each_key_of_a_section_is_documented(section: Any) -> None:
    text = inspect.cleandoc(section.__doc__)  # newer Pythons remove the indentation themselves
    names = [each.name for each in dataclasses.fields(section)]
    assert [name for name in names if f"\n    {name}: " not in text] == []
