"""Exact search is exact, evaluation is of all items, and BM25 stands beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stdlib import started, write_toml
from train.baselines import bm25, bm25_metrics
from train.evaluation import encode, search


def test_search_is_exact_and_best_first() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randn(n, 5, generator=generator) for n in (1100, 700))
    found = search(queries, items, k=20)
    expected = np.argsort(-(queries @ items.T).numpy(), axis=1)[:, :20]
    np.testing.assert_array_equal(found, expected)
    assert search(queries[:2], items[:3]).shape == (2, 3)


def test_encoding_in_blocks_is_encoding(stdlib: Path, tmp_path: Path) -> None:
    model, _, (_, items) = started(write_toml(stdlib, tmp_path / "a.toml"))
    tower = model.towers[1].train()
    everything = encode(tower, items)
    assert tower.training
    assert everything.shape == (len(items), 64)
    assert not everything.requires_grad
    rows = np.array([650, 3, 3, 0])
    torch.testing.assert_close(encode(tower, items, rows), everything[rows], rtol=0, atol=1e-6)


def test_bm25_ranks_by_shared_and_rare_words() -> None:
    items = ["the cat sat on the mat", "a dog sat", "dogs and cats", "quantum chromodynamics"]
    ranked = bm25(items, ["cats", "sitting dog", "quantum", "zebra", ""], k=10)
    assert ranked.shape == (5, 4)
    assert {*ranked[0]} == {0, 2, -1}  # stems, and shorter is nearer
    assert ranked[0, 0] == 2
    assert ranked[1, 0] in (1, 2)
    assert ranked[2].tolist() == [3, -1, -1, -1]
    assert (ranked[3:] == -1).all()


@pytest.mark.parametrize("items", [["...", "?"], ["", ""], ["the", "of the"]])
def test_bm25_of_items_without_words_finds_nothing(items: list[str]) -> None:
    assert (bm25(items, ["a query", ""], k=2) == -1).all()


def test_bm25_is_measured_as_the_model_is(stdlib: Path, tmp_path: Path) -> None:
    model, problem, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    found = bm25_metrics(model.experiment, problem, "test")
    assert set(found) == {
        f"bm25_{name}"
        for name in ("recall_at_1", "recall_at_10", "recall_at_100", "hr_at_10", "mrr_at_10", "ndcg_at_10")
    }
    assert 0.4 < found["bm25_recall_at_10"] < found["bm25_recall_at_100"] < 1
