"""Baselines read what the towers read, in any script, with the parameters that validation prefers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.stdlib import started, write_toml
from tests.train.evaluation.test_report import pairs_of
from twinspire.protos.features import FeatureSpec, TextFeature
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.baselines import BaselinesConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import baselines
from twinspire.train.evaluation.ranking import FittedBaseline
from twinspire.train.metrics import mean, per_query
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


FILLER = "gone with the wind and the rain of the night "


def test_bm25_reads_what_the_towers_read_and_a_second_row_the_whole() -> None:
    items = [f"{FILLER}zebra", f"{FILLER}yak", f"{FILLER}camel"]
    data = data_of(items, ["camel", "yak"], [2, 1])
    fitted = baselines(experiment_with(max_length=40), data)
    assert fitted["bm25"](np.arange(2)).max() == -1
    assert fitted["bm25_full"](np.arange(2))[:, 0].tolist() == [2, 1]
    assert set(baselines(experiment_with(), data)) == {"bm25", "tfidf"}
