"""Exact search is exact, evaluation is of all items, and BM25 stands beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.stdlib import started, write_toml
from train.evaluation.baselines import baselines, bm25
from train.evaluation.exact_search import encode, search
from train.evaluation.metrics import CUTOFFS
from train.evaluation.report import WITH_INTERVAL, evaluate_ranking


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
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    rank = baselines(model.experiment, data)
    assert set(rank) == {"bm25"}
    found = evaluate_ranking(data, "test", rank["bm25"], rank)
    names = {f"recall_at_{k}" for k in CUTOFFS} | {"hr_at_10", "hr_at_50", "mrr_at_10", "ndcg_at_10"}
    names |= {f"{name}_{end}" for name in WITH_INTERVAL for end in ("low", "high")}
    assert set(found) == names | {f"bm25_{name}" for name in names} | {"queries"}
    assert all(found[name] == found[f"bm25_{name}"] for name in names)
    assert 0.4 < found["bm25_recall_at_10"] < found["bm25_recall_at_100"] < 1


def test_what_a_query_has_seen_is_no_answer() -> None:
    items = torch.eye(4)
    queries = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]])
    seen = [np.array([0]), np.array([], np.int64), np.array([0, 1, 2, 3])]
    found = search(queries, items, k=3, seen=seen)
    assert found.tolist() == [[1, 2, 3], [0, 1, 2], [-1, -1, -1]]
