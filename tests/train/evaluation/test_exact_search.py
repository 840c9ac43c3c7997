"""Exact search is exact, and encoding in blocks changes nothing."""

from pathlib import Path

import numpy as np
import torch

from tests.helpers.stdlib import started, write_toml
from train.evaluation.exact_search import encode, search


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


def test_what_a_query_has_seen_is_no_answer() -> None:
    items = torch.eye(4)
    queries = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]])
    seen = [np.array([0]), np.array([], np.int64), np.array([0, 1, 2, 3])]
    found = search(queries, items, k=3, seen=seen)
    assert found.tolist() == [[1, 2, 3], [0, 1, 2], [-1, -1, -1]]
