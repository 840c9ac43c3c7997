"""Baselines read what the towers read, in any script, with the parameters that validation prefers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.stdlib import PLAIN, started, write_toml
from tests.train.evaluation.test_report import pairs_of
from twinspire.protos.features import FeatureSpec, TextFeature
from twinspire.protos.lexical import ANALYZERS
from twinspire.train.config import BaselinesConfig, Experiment, read_experiment
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.training_data import TrainingData, texts_of
from twinspire.train.evaluation import lexical_choice
from twinspire.train.evaluation.baselines import baselines
from twinspire.train.evaluation.lexical_choice import (
    LexicalSettings,
    Validation,
    candidates,
    default_analyzer,
)
from twinspire.train.evaluation.ranking import BaselineFitter, FittedBaseline
from twinspire.train.evaluation.report import evaluate_ranking
from twinspire.train.metrics import CUTOFFS, WITH_INTERVAL, mean, per_query
from twinspire.train.paths import ROOT

# A command's description and a query for it; no two lines share a run between spaces.
CHINESE = [
    ("复制文件和目录", "如何复制一个文件"),
    ("移动或重命名文件", "给文件重命名"),
    ("删除文件和目录", "怎样删除目录"),
    ("显示磁盘使用情况", "查看磁盘还剩多少空间"),
    ("压缩归档工具", "把资料压缩"),
    ("使用 docker 启动容器", "用docker启动一个容器"),
    ("查找文本中的模式", "在文本里查找"),
    ("下载网页内容", "从网页下载"),
]


def text(max_length: int = 256) -> dict[str, FeatureSpec]:
    return {"text": TextFeature("text", column="text", max_length=max_length)}


def experiment_with(max_length: int = 256, **sections: Any) -> Experiment:
    known = read_experiment(ROOT / "train/configs/pydocs.toml")
    return replace(known, query=text(max_length), item=text(max_length), **sections)


def data_of(items: Sequence[str], queries: Sequence[str], answers: Sequence[int]) -> TrainingData:
    """Each query is in validation and in test; training holds no pair."""
    pairs = pairs_of([*range(len(queries))], [*answers])
    parts = {"train": pairs_of([], []), "validation": pairs, "test": pairs, "cold": pairs_of([], [])}
    return TrainingData({"text": queries}, {"text": items}, parts, len(queries), len(items))


def chinese() -> TrainingData:
    items, queries = zip(*CHINESE, strict=True)
    return data_of(items, queries, range(len(items)))


def recall_at_1(data: TrainingData, rank: FittedBaseline) -> float:
    queries, relevant = data.parts["test"].by_query()
    return mean(per_query(rank(queries), relevant))["recall_at_1"]


def test_chinese_is_matched_by_characters() -> None:
    fitted = baselines(experiment_with(), chinese())
    assert set(fitted) == {"bm25", "tfidf"}
    assert recall_at_1(chinese(), fitted["bm25"]) == 1
    assert recall_at_1(chinese(), fitted["tfidf"]) == 1
    whole = experiment_with(baselines=BaselinesConfig("words"))
    assert recall_at_1(chinese(), baselines(whole, chinese())["bm25"]) <= 1 / 8  # docker


def test_the_toml_can_say_how_texts_are_split(stdlib: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    texts = texts_of(data.items, model.experiment.item)
    assert default_analyzer(model.experiment, texts) == "english"
    assert candidates("bm25", model.experiment, texts) == ["english", "characters"]
    changed: Any = {"baselines": {"analyzer": "characters"}}
    path = write_toml(stdlib, tmp_path / "b.toml", sections={**PLAIN, "baselines": {}}, **changed)
    assert candidates("bm25", read_experiment(path), texts) == ["characters"]


def test_parameters_are_chosen_without_the_texts_that_hold_the_validation_queries(
    stdlib: Path, tmp_path: Path
) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    asked = dict(zip(data.parts["validation"].item, data.parts["validation"].query, strict=True))
    queries, texts = data.queries["text"], data.items["text"]
    told = [f"{queries[asked[n]]} {text}" if n in asked else text for n, text in enumerate(texts)]
    served = replace(data, items={"text": told}, chosen_with=data.items)
    chosen = baselines(model.experiment, data)["bm25"].settings
    assert baselines(model.experiment, served)["bm25"].settings == chosen
    assert baselines(model.experiment, replace(served, chosen_with=None))["bm25"].settings != chosen
    rank = baselines(model.experiment, served)["bm25"]
    found, relevant = data.parts["validation"].by_query()
    assert mean(per_query(rank(found), relevant))["recall_at_10"] > 0.95  # it ranks the texts as served


def test_nothing_is_chosen_again_that_a_run_has_chosen(
    stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    names = "english, characters"
    chosen = {
        f"bm25 by {names}": {"analyzer": "english", "k1": 2.5, "b": 0.25},
        f"bm25 by {names}, full texts": {"analyzer": "characters", "k1": 1.5, "b": 1},
        f"tfidf by {names}, 1- to 3-grams, 1- and 2-grams": {"analyzer": "english", "k1": 1, "b": 1},
    }
    asked: list[str] = []

    def choose(kind: Any, names: Sequence[str], terms: Any, validation: Validation) -> LexicalSettings:
        asked.append(kind)
        return LexicalSettings(names[0])

    monkeypatch.setattr(lexical_choice, "chosen_settings", choose)
    found = baselines(model.experiment, data, fitter=BaselineFitter(model.experiment, data, stored=chosen))
    assert asked == []
    assert found["bm25"].settings == {"k1": 2.5, "b": 0.25, "analyzer": str(ANALYZERS["english"])}
    assert found["bm25_full"].settings == {"k1": 1.5, "b": 1.0, "analyzer": str(ANALYZERS["characters"])}
    assert found["tfidf"].settings == {"analyzer": str(ANALYZERS["english"])}
    queries, _ = data.parts["test"].by_query()
    best = found["bm25"](queries)
    assert (best != baselines(model.experiment, data)["bm25"](queries)).any()
    assert asked == ["bm25", "bm25", "tfidf"]
    words = replace(model.experiment, baselines=BaselinesConfig("words"))
    baselines(words, data, fitter=BaselineFitter(words, data, stored=chosen))
    assert len(asked) == 6  # they were chosen from other analysers


def test_bm25_is_measured_as_the_model_is(stdlib: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    rank = baselines(model.experiment, data)
    assert set(rank) == {"bm25", "bm25_full", "tfidf"}
    found = evaluate_ranking(data, "test", rank["bm25"], rank)
    names = {f"recall_at_{k}" for k in CUTOFFS} | {"hr_at_10", "hr_at_50", "mrr_at_10", "ndcg_at_10"}
    names |= {f"{name}_{end}" for name in WITH_INTERVAL for end in ("low", "high")}
    compared = {f"difference_{name}{end}" for name in WITH_INTERVAL for end in ("", "_low", "_high")}
    of_baselines = {f"{each}_{name}" for each in rank for name in names | compared}
    assert set(found) == names | of_baselines | {"queries"}
    assert all(found[name] == found[f"bm25_{name}"] for name in names)
    for each in rank:
        assert 0.4 < found[f"{each}_recall_at_10"] < found[f"{each}_recall_at_100"] < 1


FILLER = "gone with the wind and the rain of the night "


def test_bm25_reads_what_the_towers_read_and_a_second_row_the_whole() -> None:
    items = [f"{FILLER}zebra", f"{FILLER}yak", f"{FILLER}camel"]
    data = data_of(items, ["camel", "yak"], [2, 1])
    fitted = baselines(experiment_with(max_length=40), data)
    assert fitted["bm25"](np.arange(2)).max() == -1
    assert fitted["bm25_full"](np.arange(2))[:, 0].tolist() == [2, 1]
    assert set(baselines(experiment_with(), data)) == {"bm25", "tfidf"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Plain", "Pla"),
        ("ab", "ab"),
        ("ﬁne", "fin"),  # the ligature is two characters after normalisation
        ("Ä", "Ä"),
        ("ééé", "ééé"),
    ],
)
def test_texts_are_cut_where_the_tower_cuts_them(given: str, read: str) -> None:
    assert texts_of({"text": [given]}, text(3), cut=True) == [read]
    assert texts_of({"text": [given]}, text(3)) == [given]


def test_k1_and_b_are_those_that_validation_prefers() -> None:
    """The answers are the long items, so a length must not count against them."""
    filler = " ".join(f"w{n}" for n in range(40))
    items = [each for n in range(12) for each in (f"t{n} x", f"t{n} t{n} {filler}")]
    data = data_of(items, [f"t{n}" for n in range(12)], [2 * n + 1 for n in range(12)])
    by_rank = TrainingConfig(selection="mrr_at_10")
    found = baselines(experiment_with(training=by_rank), data)["bm25"]
    assert found.settings["b"] < 0.5
    assert recall_at_1(data, found) == 1
    turned = data_of(items, [f"t{n}" for n in range(12)], [2 * n for n in range(12)])
    other = baselines(experiment_with(training=by_rank), turned)["bm25"]
    assert other.settings["b"] > found.settings["b"]
    assert other.settings["analyzer"] == str(ANALYZERS["characters"])
