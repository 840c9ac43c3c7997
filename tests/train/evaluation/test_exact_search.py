"""Exact search is exact, and encoding in blocks changes nothing."""

import numpy as np
import pytest
import torch

from tests.helpers.people import data_of_people, random_people, schema_of_people
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.evaluation.exact_search import blocks_of_like_length, encode, search
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import architecture_of

TOWER = SequenceTower("sequence", dimension=8, buckets=64, characters=())


def test_search_is_exact_and_best_first() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randn(n, 5, generator=generator) for n in (1100, 700))
    found = search(queries, items, k=20)
    scores = (queries @ items.T).numpy()
    best = -np.sort(-scores, axis=1)[:, :20]
    np.testing.assert_allclose(np.take_along_axis(scores, found, axis=1), best, atol=1e-5)
    assert all(len({*rows}) == 20 for rows in found.tolist())
    assert search(queries[:2], items[:3]).shape == (2, 3)


def test_records_of_like_length_are_encoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record has the vector that it has alone, and no block is larger than allowed."""
    data, schema = data_of_people(random_people(40, 40, longest=30), 40), schema_of_people(40, 30)
    queries = PreparedInputs(schema, "query", data.queries, architecture_of(TOWER).hashing())
    torch.manual_seed(0)
    tower = architecture_of(TOWER).build(schema)[0]
    index = np.random.default_rng(0).permutation(len(queries))[:200]
    alone = torch.cat([encode(tower, queries, np.array([row])) for row in index])
    lengths = queries.lengths(index)
    assert lengths.min() < 3
    assert lengths.max() > 20
    for most in (1, 2_000, 10**9):
        monkeypatch.setattr("twinspire.train.evaluation.exact_search.MAX_CELLS", most)
        blocks = blocks_of_like_length(queries, index)
        assert sorted(np.concatenate(blocks).tolist()) == list(range(200))
        assert all(len(block) == 1 or len(block) * lengths[block].max() ** 2 <= most for block in blocks)
        torch.testing.assert_close(encode(tower, queries, index), alone, rtol=0, atol=1e-5)
    assert encode(tower, queries, np.empty(0, np.int64)).shape == (0, alone.shape[1])


def test_what_a_query_has_seen_is_no_answer() -> None:
    items = torch.eye(4)
    queries = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]])
    seen = [np.array([0]), np.array([], np.int64), np.array([0, 1, 2, 3])]
    found = search(queries, items, k=3, seen=seen)
    assert found.tolist() == [[1, 2, 3], [0, 1, 2], [-1, -1, -1]]
