"""Hard negatives are not positives, and the model ranks them high."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.people import data_of_people, random_people
from train.config.losses import Bpr, InBatchSoftmax
from train.data.training_data import Pairs, Positives
from train.losses.hard_negatives import mine_hard_negatives
from train.losses.objective import build_objective

QUERIES, ITEMS = 12, 20
PAIRS = st.lists(st.tuples(st.integers(0, QUERIES - 1), st.integers(0, ITEMS - 1)), min_size=2, max_size=40)


def pairs_of(pairs: list[tuple[int, int]]) -> Pairs:
    query, item = np.array(pairs).T
    return Pairs(query, item, np.ones(len(pairs), np.float32))


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator))


@given(PAIRS, st.integers(1, 3), st.integers(3, 40))
def test_hard_negatives_are_training_items_and_no_positives(
    pairs: list[tuple[int, int]], per_pair: int, depth: int
) -> None:
    known = pairs_of(pairs)
    drawable = {item for _, item in pairs}
    found = mine_hard_negatives(
        unit(QUERIES, 0), unit(ITEMS, 1), known, Positives.of(known, QUERIES), per_pair, depth, (0, 0)
    ).items
    assert found.shape == (len(pairs), min(per_pair, depth, len(drawable)))
    for (query, _), negatives in zip(pairs, found, strict=True):
        assert {*negatives} <= drawable
        negative = drawable - {item for other, item in pairs if other == query}
        assert len({*negatives}) == len(negatives)
        if len(negative) >= len(negatives):
            assert {*negatives} <= negative


def test_the_nearest_are_mined_and_drawn_evenly() -> None:
    pairs = pairs_of([(query, item) for query in range(QUERIES) for item in (query, query + 8)])
    queries, items = unit(QUERIES, 0), unit(ITEMS, 1)
    positives = Positives.of(pairs, QUERIES)
    drawn: dict[int, list[int]] = {query: [] for query in range(QUERIES)}
    for seed in range(200):
        for query, row in zip(
            pairs.query,
            mine_hard_negatives(queries, items, pairs, positives, 1, 3, (seed, 0)).items,
            strict=True,
        ):
            drawn[int(query)].append(int(row[0]))
    for query, negatives in drawn.items():
        scores = items @ queries[query]
        scores[[query, query + 8]] = -2
        three = scores.topk(3).indices.tolist()
        share = [negatives.count(row) / len(negatives) for row in three]
        assert sum(share) == 1
        assert min(share) > 0.2


def test_mining_is_seeded() -> None:
    pairs = pairs_of([(n % QUERIES, n % ITEMS) for n in range(60)])
    arguments = (unit(QUERIES, 0), unit(ITEMS, 1), pairs, Positives.of(pairs, QUERIES), 2, 10)
    first, again, other = (mine_hard_negatives(*arguments, (0, epoch)).items for epoch in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_negatives_near_the_score_of_the_own_item_are_dropped(share: float) -> None:
    pairs = pairs_of([(query, item) for query in range(QUERIES) for item in range(query, query + 3)])
    queries, items = unit(QUERIES, 0), unit(ITEMS, 1)
    positives = Positives.of(pairs, QUERIES)
    scores = queries @ items.T
    arguments = (queries, items, pairs, positives, 1, 4)
    kept, plain = [], []
    for seed in range(40):
        mined = mine_hard_negatives(*arguments, (seed, 1), drop_above=share)
        kept += [
            float(scores[query, row] - scores[query, item] + (1 - share) * abs(scores[query, item]))
            for query, item, (row,) in zip(pairs.query, pairs.item, mined.items, strict=True)
        ]
        rows = mine_hard_negatives(*arguments, (seed, 1)).items[:, 0]
        plain += (scores[pairs.query, rows] > scores[pairs.query, pairs.item]).tolist()
    drawable = np.unique(pairs.item)
    below = [  # a pair of whose own item nothing scores below the bound gets what was dropped
        bool((scores[query, np.setdiff1d(drawable, positives_of(pairs, query))] <= bound).any())
        for query, bound in zip(pairs.query, bounds(scores, pairs, share), strict=True)
    ]
    assert max(np.array(kept).reshape(40, -1)[:, below].ravel()) <= 1e-6
    assert sum(plain) > 0
    near = 0
    for query, bound in zip(pairs.query, bounds(scores, pairs, share), strict=True):
        others = scores[query, np.setdiff1d(drawable, positives_of(pairs, query))]
        near += int((others.topk(4).values > bound).sum())
    assert mined.dropped == near / (4 * len(pairs))
    assert mine_hard_negatives(*arguments, (0, 1)).dropped == 0


def positives_of(pairs: Pairs, query: int) -> np.ndarray:
    return np.asarray(pairs.item[pairs.query == query])


def bounds(scores: torch.Tensor, pairs: Pairs, share: float) -> torch.Tensor:
    own = scores[pairs.query, pairs.item]
    return own - (1 - share) * own.abs()


def test_none_is_dropped_in_the_first_epoch() -> None:
    data = data_of_people(random_people(40, ITEMS), ITEMS)
    vectors = unit(data.query_count, 0), unit(ITEMS, 1)
    loss = InBatchSoftmax("in_batch_softmax", hard_negatives=2, mine_from=5, drop_above=0.9)
    objective = build_objective(loss, data)
    plain = build_objective(replace(loss, drop_above=0.0), data)
    for epoch in (0, 1):
        found, expected = (each.mine(lambda: vectors, (0, epoch)) for each in (objective, plain))
        assert found is not None
        assert expected is not None
        assert np.array_equal(found, expected) == (epoch == 0)
        assert plain.dropped is None
        assert (objective.dropped is None) == (epoch == 0)
    assert objective.dropped is not None
    assert 0 < objective.dropped < 1


def test_items_that_a_query_has_seen_are_not_mined() -> None:
    data = data_of_people(random_people(40, ITEMS), ITEMS)
    assert data.histories is not None
    loss = Bpr("bpr", negatives=2, sampling="hard", mine_from=5)
    objective = build_objective(loss, data)
    vectors = unit(data.query_count, 0), unit(ITEMS, 1)
    found = objective.mine(lambda: vectors, (0, 0))
    assert found is not None
    for query, negatives in zip(objective.pairs.query, found, strict=True):
        assert not {*data.histories.rows(int(query))} & {*negatives}
