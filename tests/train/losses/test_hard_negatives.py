"""Hard negatives are not positives, and the model ranks them high."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.people import data_of_people, random_people
from tests.train.losses.test_objective import pairs_of
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.data.training_data import Positives
from twinspire.train.losses.hard_negatives import mine_hard_negatives
from twinspire.train.losses.objectives import build_objective

QUERIES, ITEMS = 12, 20
PAIRS = st.lists(st.tuples(st.integers(0, QUERIES - 1), st.integers(0, ITEMS - 1)), min_size=2, max_size=40)


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
    )
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
            mine_hard_negatives(queries, items, pairs, positives, 1, 3, (seed, 0)),
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


def test_many_pairs_are_mined_in_parts_of_the_items_and_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinspire.train.losses.hard_negatives._BLOCK", 4)
    monkeypatch.setattr("twinspire.train.losses.hard_negatives._FEWEST", 2)
    pairs = pairs_of([(n % QUERIES, n % ITEMS) for n in range(60)])
    queries, items, positives = unit(QUERIES, 0), unit(ITEMS, 1), Positives.of(pairs, QUERIES)
    scores = (queries @ items.T).numpy()
    scores[pairs.query, pairs.item] = -2
    rank = (-scores).argsort(axis=1).argsort(axis=1)
    drawn = [mine_hard_negatives(queries, items, pairs, positives, 1, 8, (seed, 0)) for seed in range(50)]
    ranks = np.array([rank[pairs.query, each[:, 0]] for each in drawn])
    assert 3 < ranks.mean() < 4.5  # 3.5 where each of the eight nearest is as likely
    assert (ranks == 0).mean() > 0.05
    assert (ranks < 8).mean() > 0.8
    assert len(np.unique(drawn)) == ITEMS  # not those of a single part


def test_mining_is_seeded() -> None:
    pairs = pairs_of([(n % QUERIES, n % ITEMS) for n in range(60)])
    arguments = (unit(QUERIES, 0), unit(ITEMS, 1), pairs, Positives.of(pairs, QUERIES), 2, 10)
    first, again, other = (mine_hard_negatives(*arguments, (0, epoch)) for epoch in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_items_that_a_query_has_seen_are_not_mined() -> None:
    data = data_of_people(random_people(40, ITEMS), ITEMS)
    assert data.histories is not None
    loss = InBatchSoftmax("in_batch_softmax", hard_negatives=2, mine_from=5)
    objective = build_objective(loss, data)
    vectors = unit(data.query_count, 0), unit(ITEMS, 1)
    found = objective.mine(lambda: vectors, (0, 0))
    assert found is not None
    for query, negatives in zip(objective.pairs.query, found, strict=True):
        assert not {*data.histories.rows(int(query))} & {*negatives}
