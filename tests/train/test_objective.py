"""What a query is compared with: never with what is an answer to it, and with nothing that nobody took."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import DataError
from tests.train.people import problem_of_people, random_people
from train.batches import Batch, HistoryBatches, batches
from train.config import Bce, Bpr, FullSoftmax, Hinge, InBatchSoftmax, Loss, SampledSoftmax
from train.corpus import HistoryCorpus
from train.objective import Candidates, Objective, draw_columns
from train.problem import Pairs, Positives, Problem

ITEMS = 15
FULL = FullSoftmax("full_softmax")
IN_BATCH = InBatchSoftmax("in_batch_softmax")
LOSSES: dict[str, Loss] = {
    "full": FULL,
    "in batch": IN_BATCH,
    "in batch, hard": replace(IN_BATCH, hard_negatives=2, mine_from=5),
    "in batch, mixed": replace(IN_BATCH, uniform_negatives=6),
    "sampled": SampledSoftmax("sampled_softmax"),
    "bce": Bce("bce", negatives=3),
    "bce, hard": Bce("bce", negatives=3, sampling="hard", mine_from=5),
    "hinge": Hinge("hinge", sampling="popularity"),
    "bpr": Bpr("bpr", negatives=2),
}
KINDS = pytest.mark.parametrize("kind", LOSSES)
PLAIN = st.lists(st.tuples(st.integers(0, 11), st.integers(0, ITEMS - 1)), min_size=2, max_size=40)


def pairs_of(pairs: list[tuple[int, int]], label: list[float] | None = None) -> Pairs:
    query, item = np.array(pairs).T
    labels = None if label is None else np.array(label, np.float32)
    return Pairs(query, item, np.ones(len(pairs), np.float32), labels)


def problem_of_pairs(pairs: Pairs) -> Problem:
    """Without histories, and with nothing but training pairs."""
    return Problem({}, {}, {"train": pairs}, 12, ITEMS)


def drawn(objective: Objective, problem: Problem, size: int = 8) -> list[tuple[Batch, Candidates]]:
    """The batches of an epoch and what each is compared with."""
    pairs, generator = objective.pairs, np.random.default_rng(0)
    if problem.histories is None:
        found = list(batches(len(pairs), pairs.query, size, (0, 0)))
    else:
        corpus = HistoryCorpus(problem.histories, problem.item_ids, 10)
        found = HistoryBatches(pairs, corpus, size, shared=True).draw((0, 0))
    torch.manual_seed(0)
    vectors = torch.randn(problem.query_count, 4), torch.randn(problem.item_count, 4)
    hard = objective.mine(lambda: vectors, (0, 0))
    return [(batch, objective.candidates(batch, hard, generator)) for batch in found]


@KINDS
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_own_item_is_a_candidate_and_what_was_seen_is_no_negative(kind: str, exclude_seen: bool) -> None:
    problem = problem_of_people(random_people(25, ITEMS), ITEMS, exclude_seen)
    assert problem.histories is not None
    objective = Objective(LOSSES[kind], problem)
    masked = 0
    for batch, given_ in drawn(objective, problem):
        assert (np.diff(given_.items) > 0).all()  # distinct
        own = objective.pairs.item[batch.pairs]
        np.testing.assert_array_equal(given_.items[given_.positive], own)
        if given_.known is None:
            assert kind == "full"
            assert not exclude_seen
            continue
        for n, pair in enumerate(batch.pairs):
            query = int(objective.pairs.query[pair])
            past = {*problem.histories.rows(query).tolist()} if exclude_seen else set()
            known = {*given_.items[given_.known[n].numpy()].tolist()}
            assert past & {*given_.items.tolist()} <= known
            answers = {*objective.pairs.item[objective.pairs.query == query].tolist()}
            assert known <= past | answers
            masked += len(known & past)
    assert (masked > 0) == exclude_seen


@KINDS
@given(pairs=PLAIN)
def test_known_positives_are_masked_in_all_but_the_full_softmax(
    kind: str, pairs: list[tuple[int, int]]
) -> None:
    problem = problem_of_pairs(pairs_of(pairs))
    objective = Objective(LOSSES[kind], problem)
    for batch, given_ in drawn(objective, problem):
        if kind == "full":  # where they are one multinomial together
            assert given_.known is None
            assert {*given_.items} == {item for _, item in pairs}
            continue
        assert given_.known is not None
        queries = objective.pairs.query[batch.pairs]
        expected = [[(query, item) in {*pairs} for item in given_.items] for query in queries]
        assert given_.known.tolist() == expected


def test_an_item_that_is_a_positive_by_another_pair_is_masked() -> None:
    problem = problem_of_pairs(pairs_of([(0, 3), (0, 5), (1, 5)]))
    ((batch, given_),) = drawn(Objective(IN_BATCH, problem), problem)
    assert given_.known is not None
    rows = {(int(q), int(i)): given_.known[n].tolist() for n, (q, i) in enumerate(
        zip(problem.parts["train"].query[batch.pairs], problem.parts["train"].item[batch.pairs], strict=True)
    )}  # fmt: skip
    assert rows == {(0, 3): [True, True], (0, 5): [True, True], (1, 5): [False, True]}


@KINDS
def test_items_without_a_training_pair_are_never_candidates(kind: str) -> None:
    people = random_people(25, ITEMS)
    problem = problem_of_people([[2 * item for item in each] for each in people], 2 * ITEMS)
    objective = Objective(LOSSES[kind], problem)
    trained = {*problem.parts["train"].item.tolist()}
    for _, given_ in drawn(objective, problem):
        assert {*given_.items.tolist()} <= trained


def test_the_whole_catalogue_is_what_the_full_softmax_is_over() -> None:
    problem = problem_of_people(random_people(25, ITEMS), ITEMS)
    trained = sorted({*problem.parts["train"].item.tolist()})
    for _, given_ in drawn(Objective(FULL, problem), problem):
        assert given_.items.tolist() == trained
        assert given_.negatives is None


@pytest.mark.parametrize("sampling", ["uniform", "popularity", "hard"])
@pytest.mark.parametrize("kind", [Bce, Hinge, Bpr])
def test_every_pair_gets_its_own_negatives(kind: Any, sampling: str) -> None:
    loss = kind(kind.__name__.lower(), negatives=3, sampling=sampling, mine_from=4)
    problem = problem_of_people(random_people(25, ITEMS), ITEMS, exclude_seen=False)
    objective = Objective(loss, problem)
    for batch, given_ in drawn(objective, problem):
        assert given_.negatives is not None
        assert given_.known is not None
        assert given_.negatives.shape == (len(batch.pairs), 3)
        assert not given_.known.gather(1, given_.negatives).any()


def test_labels_are_learned_from_all_pairs_and_nothing_is_drawn() -> None:
    label = [1.0, 0, 1, 1, 0, 0]
    pairs = pairs_of([(0, 1), (0, 2), (1, 1), (1, 3), (2, 2), (2, 3)], label)
    problem = problem_of_pairs(pairs)
    objective = Objective(Bce("bce", negatives=0, positive_weight=2.0), problem)
    assert len(objective.pairs) == 6
    assert objective.mine(lambda: pytest.fail("nothing is mined"), (0, 0)) is None
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    ((batch, given_),) = drawn(objective, problem)
    assert given_.items.tolist() == [1, 2, 3]
    losses = objective.losses(scores, batch, given_, np.random.default_rng(0))
    for n, pair in enumerate(batch.pairs):
        score = float(scores[n, [1, 2, 3].index(pairs.item[pair])])
        probability = 1 / (1 + np.exp(-score))
        expected = -2 * np.log(probability) if label[pair] else -np.log(1 - probability)
        assert float(losses[n]) == pytest.approx(expected, rel=1e-5)
    for loss in (FULL, IN_BATCH, Bce("bce")):  # which learn from positive pairs alone
        assert len(Objective(loss, problem).pairs) == 3


LACKING: list[tuple[list[float] | None, Loss, str]] = [
    (None, Bce("bce", negatives=0), r"loss\.negatives = 0, but every training pair is positive"),
    ([0, 0, 0], Bce("bce", negatives=0), "holds no positive pair"),
    ([0, 1, 0], FULL, "holds a single pair"),
]


@pytest.mark.parametrize(("label", "loss", "said"), LACKING, ids=[said for *_, said in LACKING])
def test_nothing_to_tell_apart_is_refused(label: list[float] | None, loss: Loss, said: str) -> None:
    problem = problem_of_pairs(pairs_of([(0, 1), (1, 2), (2, 3)], label))
    with pytest.raises(DataError, match=said):
        Objective(loss, problem)


def test_random_negatives_are_no_known_positives() -> None:
    generator = np.random.default_rng(0)
    same = torch.from_numpy(generator.random((50, 30)) < 0.5)
    same[:, 3] = False
    columns = draw_columns(same, 4, generator)
    assert columns.shape == (50, 4)
    assert not same.gather(1, columns).any()
    assert len(set(columns.flatten().tolist())) > 20
    nothing_else = torch.ones(2, 3, dtype=torch.bool)
    assert draw_columns(nothing_else, 4, generator).shape == (2, 4)


def test_of_histories_positives_are_those_of_any_pair() -> None:
    problem = problem_of_people(random_people(25, ITEMS), ITEMS)
    positives = Positives.of(problem.parts["train"], problem.query_count)
    place, items = positives.of_queries(problem.parts["train"].query)
    np.testing.assert_array_equal(items, problem.parts["train"].item)
    np.testing.assert_array_equal(place, np.arange(len(items)))
