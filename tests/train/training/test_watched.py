"""Towers learn from what people did and in which order, and go on after an interruption as if it was none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.helpers.stdlib import Sections, completed, experiment_at
from tests.helpers.watched import ATTENTION, RATINGS, write_toml
from tests.train.training.test_trainer import Watcher
from twinspire.protos.errors import DataError
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.evaluation.baselines import baselines
from twinspire.train.evaluation.exact_search import search
from twinspire.train.evaluation.ranking import rank_by, summed
from twinspire.train.evaluation.report import evaluate_ranking
from twinspire.train.metrics import mean, per_query
from twinspire.train.models.collaborative import ease, interaction_matrix
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.training.trained_model import build_model
from twinspire.train.training.trainer import Trainer

SUM: Sections = {
    **ATTENTION,
    "tower": {"kind": "sequence", "history": "sum", "dimension": 16, "latent": 12, "buckets": 64},
}


@pytest.fixture
def toml(films: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(sections: Sections = ATTENTION, **changed: Any) -> Path:
        return write_toml(films, tmp_path / "a.toml", sections=sections, **changed)

    return write


def begun(path: Path) -> tuple[Experiment, TrainingData, Trainer]:
    experiment, dataset = experiment_at(path)
    torch.set_num_threads(1)
    experiment, training_data = completed(experiment, dataset)
    model, prepared = build_model(experiment, training_data)
    shared = architecture_of(experiment.tower).shares_windows
    trainer = Trainer(model.towers, training_data, prepared, experiment.loss, experiment.training, shared)
    return experiment, training_data, trainer


def test_a_query_is_a_history_and_what_else_is_told(toml: Callable[..., Path]) -> None:
    experiment, data = experiment_at(toml())
    training_data = training_data_of(data, experiment.query, experiment.item)
    assert training_data.histories is not None
    assert data.history is not None
    ids, countries = data.items["item_id"].to_list(), training_data.queries["country"]
    told = set()
    for part, pairs in training_data.parts.items():
        table = data.pairs.filter(pl.col("part") == part)
        rows = table.select("begin", "end", "country").rows()
        for query, (begin, end, country) in zip(pairs.query.tolist(), rows, strict=True):
            assert training_data.histories.rows(query).tolist() == data.history[begin:end].tolist()
            assert training_data.queries["history"][query] == [ids[row] for row in data.history[begin:end]]
            assert countries[query] == country
        told |= {*rows}
    assert len(told) == training_data.query_count  # equal queries are one
    assert training_data.sample("query", "test", 3, 0)["history"][0]
    assert "history" not in training_data.training_values()["query"]


@pytest.mark.exhaustive
def test_attention_beats_popularity_and_has_learned_an_order(toml: Callable[..., Path]) -> None:
    experiment, training_data, trainer = begun(toml(training={"epochs": 12, "learning_rate": 5e-3}))
    assert architecture_of(experiment.tower).shares_windows
    trainer.fit(Watcher())
    found = evaluate_ranking(training_data, "validation", trainer.rank, baselines(experiment, training_data))
    assert found["ndcg_at_10"] > found["popularity_ndcg_at_10"] + 0.25
    assert found["ease_ndcg_at_10"] > found["popularity_ndcg_at_10"] + 0.25
    assert found["itemknn_ndcg_at_10"] > found["popularity_ndcg_at_10"] + 0.25
    assert found["coverage_at_10"] > 0.5 > found["popularity_coverage_at_10"]
    losses = [record["loss"] for record in trainer.state.history[1:]]
    assert losses[-1] < 0.85 * losses[0]
    assert found["ndcg_at_10"] > backwards(training_data, trainer) + 0.1


def backwards(training_data: TrainingData, trainer: Trainer) -> float:
    """nDCG@10 of histories that are told from the newest to the oldest."""
    queries, relevant = training_data.parts["validation"].by_query()
    inputs = dict(trainer.queries.batch(queries))
    rows = inputs["history"]
    assert isinstance(rows, torch.Tensor)
    turned = [torch.cat([row[row == 0], row[row > 0].flip(0)]) for row in rows]
    with torch.inference_mode():
        vectors = trainer.towers[0].eval()({**inputs, "history": torch.stack(turned)})
    ranked = search(vectors, trainer.item_vectors(), seen=training_data.seen(queries))
    return mean(per_query(ranked, relevant))["ndcg_at_10"]


def test_it_starts_as_good_as_ease(toml: Callable[..., Path]) -> None:
    """With as many factors as items; what is learned adds nothing as yet."""
    changed: Any = {"tower": {"latent": 120, "regularisation": 50.0}, "query.history": {"max_length": 100}}
    _, training_data, trainer = begun(toml(SUM, **changed))
    rank = rank_by(training_data, summed(training_data, ease(interaction_matrix(training_data), 50.0)))
    queries, _ = training_data.parts["validation"].by_query()
    for tower in trainer.towers:
        assert tower.factors
    ours, theirs = trainer.rank(queries), rank(queries)
    assert np.mean(ours[:, :10] == theirs[:, :10]) > 0.99
    found = evaluate_ranking(training_data, "validation", trainer.rank, {"ease": rank})
    for name in ("recall_at_10", "ndcg_at_10", "mrr_at_10"):
        assert found[name] == pytest.approx(found[f"ease_{name}"], abs=2e-3)
    assert found["ease_ndcg_at_10"] > 0.1


def test_learning_adds_to_ease(toml: Callable[..., Path]) -> None:
    _, _, trainer = begun(toml(SUM, training={"epochs": 6, "batch_size": 512}))
    left: Any = trainer.towers[0].factors["history"]
    before = left.table.clone()
    trainer.fit(Watcher())
    first, *later = (record["validation_ndcg_at_10"] for record in trainer.state.history)
    assert max(later) > first + 0.02
    assert torch.equal(left.table, before)  # which stays, and what is learned stands beside it


def test_labels_are_told_apart(toml: Callable[..., Path]) -> None:
    _, _, trainer = begun(toml(RATINGS, training={"epochs": 6, "learning_rate": 1e-2}))
    trainer.fit(Watcher())
    first, *later = trainer.state.history
    assert trainer.state.best == max(record["validation_auc"] for record in later) > first["validation_auc"]
    assert min(record["validation_log_loss"] for record in later) < first["validation_log_loss"]
    assert trainer.towers[0].head.score().bias != 0


def test_without_labels_there_is_no_auc_to_choose_by(toml: Callable[..., Path]) -> None:
    _, _, trainer = begun(toml(training={"selection": "auc"}))
    with pytest.raises(DataError, match=r'training\.selection = "auc", but validation pairs are all'):
        trainer.fit(Watcher())


@pytest.mark.parametrize("repeats", ["first", "keep"])
def test_what_was_seen_is_an_answer_only_where_repeats_count(toml: Callable[..., Path], repeats: str) -> None:
    _, training_data, trainer = begun(toml(data={"repeats": repeats}))
    assert training_data.histories is not None
    assert training_data.exclude_seen == (repeats == "first")
    queries = training_data.parts["test"].query
    again = [
        bool({*training_data.histories.rows(int(query)).tolist()} & {*row.tolist()})
        for query, row in zip(queries, trainer.rank(queries), strict=True)
    ]
    assert any(again) == (repeats == "keep")
    targets = zip(queries, training_data.parts["test"].item, strict=True)
    repeated = [item in training_data.histories.rows(int(query)) for query, item in targets]
    assert any(repeated) == (repeats == "keep")
