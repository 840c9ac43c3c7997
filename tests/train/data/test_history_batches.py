"""Pairs with histories: each occurs once in an epoch, and sees only its own history."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.people import histories_of, ids_of, random_people
from twinspire.train.data import history_batches, long_arrays
from twinspire.train.data.batches import Batch
from twinspire.train.data.history_batches import HistoryBatches
from twinspire.train.data.training_data import Histories, Pairs
from twinspire.train.models.prepared_inputs import PreparedHistories

ITEMS = 8
KNOWN = ids_of(ITEMS)[:6][::-1]  # two are unknown, and rows are in another order
PEOPLE = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=14), min_size=1, max_size=6).filter(
    lambda people: sum(map(len, people)) >= 2
)


def pairs_of(histories: Histories, twice: bool = False) -> Pairs:
    """A pair for each query; of every third query two, out of order."""
    query = np.arange(len(histories))
    if twice:
        query = np.concatenate([query, query[::3]])[::-1].copy()
    return Pairs(query, np.zeros_like(query), np.ones(len(query), np.float32))


def expected_rows(histories: Histories, query: int) -> list[int]:
    """Rows of the known items of a history, oldest first."""
    return [2 + KNOWN.index(item) for item in histories[query] if item in KNOWN]


def seen_in(corpus: PreparedHistories, batch: Batch) -> Iterator[tuple[int, list[int], int]]:
    """Each query, the rows that its position in a window can attend to, and the row of that position."""
    assert batch.spans is not None
    windows = corpus.windows(batch.spans)
    width = windows.rows.shape[1]
    assert width <= corpus.max_length + 1
    for query, place in zip(batch.queries.tolist(), windows.places.tolist(), strict=True):
        visible = windows.rows[place // width, : place % width + 1].tolist()
        yield query, [row for row in visible if row], visible[-1]


@given(PEOPLE, st.integers(1, 5), st.integers(2, 12), st.booleans(), st.booleans(), st.integers(0, 5))
def test_every_pair_occurs_once_in_an_epoch(
    people: list[list[int]], max_length: int, size: int, shared: bool, twice: bool, seed: int
) -> None:
    histories = histories_of(people, ITEMS)
    pairs = pairs_of(histories, twice)
    corpus = PreparedHistories(histories, KNOWN, max_length)
    found = HistoryBatches(pairs, corpus, size, shared).draw((0, seed))
    assert sorted(np.concatenate([batch.pairs for batch in found])) == list(range(len(pairs)))
    queries = np.concatenate([batch.queries for batch in found])
    assert sorted(queries) == list(range(len(histories)))  # once for all its pairs
    for batch in found:
        assert len(batch.pairs) >= 2  # one pair has no negatives
        np.testing.assert_array_equal(batch.queries[batch.query], pairs.query[batch.pairs])
        np.testing.assert_array_equal(np.unique(batch.query), np.arange(len(batch.queries)))


@given(PEOPLE, st.integers(2, 9), st.integers(2, 20), st.booleans(), st.integers(0, 5))
def test_each_pair_is_in_one_batch_and_each_batch_in_one_block(
    people: list[list[int]], size: int, block: int, shared: bool, seed: int
) -> None:
    histories = histories_of(people, ITEMS)
    pairs, corpus = pairs_of(histories), PreparedHistories(histories, ids_of(ITEMS), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_batches, "BLOCK", block)
        made = HistoryBatches(pairs, corpus, size, shared)
        drawn = made.draw((0, seed))
        found = [*drawn]
    assert len(drawn) == len(found)
    assert sorted(np.concatenate([batch.pairs for batch in found])) == list(range(len(pairs)))
    assert all(len(batch.pairs) >= 2 for batch in found)
    begins = [set(histories.begin[batch.queries].tolist()) for batch in found]
    cuts = {histories.begin[cut] for cut in made._cuts[1:-1]}
    for cut in cuts:  # a batch is of one block
        assert all(max(each) < cut or min(each) >= cut for each in begins)
    for done in range(len(found) + 1):
        rest = [batch.pairs.tolist() for batch in drawn.after(done)]
        assert rest == [batch.pairs.tolist() for batch in found[done:]]
    whole = HistoryBatches(pairs, corpus, size, shared).draw((0, seed))
    if not cuts:
        assert [each.pairs.tolist() for each in whole] == [each.pairs.tolist() for each in found]


def test_an_epoch_takes_blocks_of_users_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_batches, "BLOCK", 100)
    histories = histories_of(random_people(80, 30, longest=25), 30)
    plan = HistoryBatches(pairs_of(histories), PreparedHistories(histories, ids_of(30), 6), 32, shared=True)
    orders = {
        tuple(dict.fromkeys(int(np.searchsorted(plan._cuts, each.pairs[0], "right")) for each in drawn))
        for drawn in (plan.draw((0, epoch)) for epoch in range(3))
    }
    assert len(plan._cuts) > 5
    assert len(orders) == 3


@given(PEOPLE, st.integers(1, 5), st.integers(2, 12), st.integers(0, 5))
def test_a_position_sees_the_end_of_its_own_history(
    people: list[list[int]], max_length: int, size: int, seed: int
) -> None:
    histories = histories_of(people, ITEMS)
    corpus = PreparedHistories(histories, KNOWN, max_length)
    for batch in HistoryBatches(pairs_of(histories), corpus, size, shared=True).draw((0, seed)):
        for query, seen, own in seen_in(corpus, batch):
            past = expected_rows(histories, query)
            assert own == (past[-1] if past else 0)
            assert 1 <= len(seen) <= max_length if past else not seen
            assert seen == past[len(past) - len(seen) :]


@given(PEOPLE, st.integers(1, 9))
def test_histories_that_are_read_in_pieces_are_those_that_are_read_at_once(
    people: list[list[int]], piece: int
) -> None:
    histories = histories_of(people, ITEMS)
    rows = np.arange(len(histories))
    whole = PreparedHistories(histories, KNOWN, 5).rows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_arrays, "PIECE", piece)
        assert PreparedHistories(histories, KNOWN, 5).rows(rows).tolist() == whole.tolist()


@pytest.mark.parametrize("shared", [True, False])
def test_the_same_seed_gives_the_same_batches(shared: bool) -> None:
    histories = histories_of(random_people(40, 30, longest=25), 30)
    corpus = PreparedHistories(histories, ids_of(30), 6)
    plan = HistoryBatches(pairs_of(histories), corpus, 32, shared)

    def drawn(seed: int, epoch: int) -> list[list[int]]:
        return [
            [*batch.pairs, *(batch.spans.begin if batch.spans else ())] for batch in plan.draw((seed, epoch))
        ]

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)
    pairs = [batch.pairs for batch in plan.draw((1, 2))]
    assert [*map(sorted, pairs)] != sorted(map(sorted, pairs))  # batches are not in the order of the data


def test_windows_begin_at_another_item_each_epoch() -> None:
    histories = histories_of([list(range(20))], 20)
    corpus = PreparedHistories(histories, ids_of(20), 5)
    plan = HistoryBatches(pairs_of(histories), corpus, 100, shared=True)
    lengths: dict[int, set[int]] = {query: set() for query in range(20)}
    for epoch in range(100):
        (batch,) = plan.draw((0, epoch))
        assert batch.spans is not None
        assert len(batch.spans.begin) <= 5
        for query, seen, _ in seen_in(corpus, batch):
            lengths[query].add(len(seen))
    assert lengths[0] == {0}
    assert all(lengths[query] == {*range(1, 6)} for query in range(5, 20))


def test_a_history_that_fits_is_seen_whole() -> None:
    histories = histories_of(random_people(30, 20, longest=9), 20)
    corpus = PreparedHistories(histories, ids_of(20), 12)
    for batch in HistoryBatches(pairs_of(histories), corpus, 50, shared=True).draw((0, 0)):
        for query, seen, _ in seen_in(corpus, batch):
            assert seen == [2 + row for row in histories.rows(query)]


@given(PEOPLE, st.integers(1, 4), st.booleans(), st.integers(2, 9))
def test_shares_of_a_batch_hold_each_pair_once_with_its_query_and_what_that_sees(
    people: list[list[int]], count: int, shared: bool, size: int
) -> None:
    histories = histories_of(people, ITEMS)
    corpus = PreparedHistories(histories, KNOWN, 4)
    pairs = pairs_of(histories, twice=True)
    for batch in HistoryBatches(pairs, corpus, size, shared).draw((0, 0)):
        shares = [batch.share(rank, count) for rank in range(count)]
        places = np.concatenate([places for _, places in shares])
        assert sorted(places.tolist()) == list(range(len(batch.pairs)))
        for share, chosen in shares:
            assert share.size == batch.size == len(batch.pairs)
            np.testing.assert_array_equal(share.pairs, batch.pairs[chosen])
            np.testing.assert_array_equal(share.queries[share.query], pairs.query[share.pairs])
        if shared:
            whole = {query: seen for query, seen, _ in seen_in(corpus, batch)}
            found = {
                q: seen for share, _ in shares if len(share.queries) for q, seen, _ in seen_in(corpus, share)
            }
            assert found == whole
