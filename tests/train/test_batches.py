"""Every pair once, every known positive masked, and hard negatives that are negatives."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.batches import Batch, batch_count, batches, mine
from train.problem import Pairs, Positives

QUERIES, ITEMS = 12, 20
PAIRS = st.lists(st.tuples(st.integers(0, QUERIES - 1), st.integers(0, ITEMS - 1)), min_size=2, max_size=40)
Rows = npt.NDArray[np.int64]


def pairs_of(pairs: list[tuple[int, int]]) -> Pairs:
    query, item = np.array(pairs).T
    return Pairs(query, item, np.arange(1, len(pairs) + 1, dtype=np.float32))  # a weight names its pair


def made(pairs: Pairs, hard: Rows | None = None, size: int = 8, seed: int = 0) -> Iterator[Batch]:
    return batches(pairs, Positives.of(pairs, QUERIES), hard, size, (seed, 0))


@given(PAIRS, st.integers(2, 16))
def test_every_pair_comes_once_an_epoch(pairs: list[tuple[int, int]], size: int) -> None:
    known = pairs_of(pairs)
    found = list(made(known, size=size))
    assert len(found) == batch_count(len(pairs), size)
    seen = []
    for batch in found:
        assert 2 <= len(batch.queries) <= size
        own = batch.items[batch.positive.numpy()]
        seen += [int(weight) - 1 for weight in batch.weight]
        for n, pair in enumerate(seen[-len(own) :]):
            assert (batch.queries[n], own[n]) == pairs[pair]
    assert len(seen) == len({*seen}) == len(pairs) - (len(pairs) % size == 1)


@given(PAIRS, st.booleans())
def test_exactly_the_known_positives_are_masked(pairs: list[tuple[int, int]], mined: bool) -> None:
    known = pairs_of(pairs)
    hard = np.random.default_rng(0).integers(0, ITEMS, (len(pairs), 2)) if mined else None
    for batch in made(known, hard):
        assert (np.diff(batch.items) > 0).all()  # distinct
        expected = [[(query, item) in {*pairs} for item in batch.items] for query in batch.queries]
        assert batch.same.tolist() == expected
        if hard is not None:
            wanted = {*hard[batch.weight.numpy().astype(int) - 1].ravel()}
            assert wanted <= {*batch.items}


def test_an_item_that_is_a_positive_by_another_pair_is_masked() -> None:
    pairs = pairs_of([(0, 3), (0, 5), (1, 5)])
    (batch,) = made(pairs)
    row = int(np.flatnonzero(batch.queries == 0)[0])
    assert batch.same[row].tolist() == [True, True]
    row = int(np.flatnonzero(batch.queries == 1)[0])
    assert batch.same[row].tolist() == [False, True]


def test_the_order_is_seeded_and_another_each_epoch() -> None:
    pairs = pairs_of([(n % QUERIES, n % ITEMS) for n in range(60)])

    def order(seed: int, epoch: int) -> list[float]:
        found = batches(pairs, Positives.of(pairs, QUERIES), None, 8, (seed, epoch))
        return [float(weight) for batch in found for weight in batch.weight]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator))


@given(PAIRS, st.integers(1, 3), st.integers(3, 40))
def test_hard_negatives_are_training_items_and_no_positives(
    pairs: list[tuple[int, int]], per_pair: int, depth: int
) -> None:
    known = pairs_of(pairs)
    drawable = {item for _, item in pairs}
    found = mine(
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
            pairs.query, mine(queries, items, pairs, positives, 1, 3, (seed, 0)), strict=True
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
    first, again, other = (mine(*arguments, (0, epoch)) for epoch in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("pairs", "size", "count"), [(16, 8, 2), (17, 8, 2), (18, 8, 3), (1, 8, 0)])
def test_a_batch_of_one_would_have_no_negatives(pairs: int, size: int, count: int) -> None:
    assert batch_count(pairs, size) == count
    known = pairs_of([(n % QUERIES, n % ITEMS) for n in range(pairs)])
    assert len(list(made(known, size=size))) == count
