"""Attention that reads when events were: buckets, windows and rows, and what is not known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.people import both_sides, data_of_people, dated, random_people, schema_of_people
from tests.train.training.test_trainer import Watcher
from twinspire.protos.inputs.events import LATEST
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.config.losses import FullSoftmax
from twinspire.train.config.training import TrainingConfig
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.sequence_encoders import (
    AGE_ROWS,
    UNKNOWN_AGE,
    AttentionEncoder,
    age_rows,
    item_table,
    moments_in_windows,
)
from twinspire.train.models.tower_factory import Towers, architecture_of
from twinspire.train.training.trainer import Trainer

ITEMS, LONGEST = 14, 6
TOWER = SequenceTower(
    "sequence",
    dimension=8,
    buckets=64,
    dropout=0.0,
    input_dropout=0.0,
    ages=True,
    age_dropout=0.0,
    characters=(),
)
HASHING = architecture_of(TOWER).hashing()
SCHEMA = schema_of_people(ITEMS, LONGEST, times=True)
DATA = dated(data_of_people(random_people(9, ITEMS), ITEMS))
YEAR = 31_557_600


def towers(ages: bool = True, moved: bool = False, age_dropout: float = 0.0) -> Towers:
    """Towers of one seed; `moved` away from their start, at which ages count for nothing."""
    torch.manual_seed(0)
    config = replace(TOWER, ages=ages, age_dropout=age_dropout if ages else SequenceTower.age_dropout)
    made = architecture_of(config).build(SCHEMA if ages else schema_of_people(ITEMS, LONGEST))
    for name, table in tables(made).items() if moved else ():
        nn.init.normal_(table)
        with torch.no_grad():
            table[UNKNOWN_AGE] = 0  # as learning leaves it where all times are known
        assert name.endswith("ages")
    return made


def tables(made: Towers) -> dict[str, nn.Parameter]:
    return {name: each for name, each in made[0].named_parameters() if name.endswith("ages")}


def prepared_queries() -> PreparedInputs:
    return PreparedInputs(SCHEMA, "query", DATA.queries, HASHING)


def trainer(made: Towers, batch_size: int = 14) -> Trainer:
    prepared = both_sides(SCHEMA, DATA, TOWER)
    training = TrainingConfig(epochs=2, batch_size=batch_size)
    return Trainer(made, DATA, prepared, FullSoftmax("full_softmax"), training, shared_windows=True)


@pytest.mark.parametrize(
    ("seconds", "row"),
    [
        (-100, 0),  # the event is after the moment
        (0, 0),
        (59, 0),
        (60, 1),
        (119, 1),
        (120, 2),
        *((60 * 2**n, n + 1) for n in range(31)),
        *((60 * 2**n - 1, n) for n in range(31)),
        (2000 * YEAR, 30),
        (LATEST, UNKNOWN_AGE),
    ],
)
@pytest.mark.parametrize("exporting", [False, True])
def test_an_age_counts_in_a_bucket(
    seconds: int, row: int, exporting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    for since in (0, 1_700_000_000, -1_000_000_000):
        moment = LATEST if seconds == LATEST else since + seconds
        assert age_rows(torch.tensor([moment]), torch.tensor([since])).tolist() == [row]


def test_an_age_without_a_time_is_not_known() -> None:
    moments, times = torch.tensor([5, LATEST, LATEST]), torch.tensor([LATEST, 5, LATEST])
    assert age_rows(moments, times).tolist() == [UNKNOWN_AGE] * 3
    assert age_rows(torch.tensor([[5], [LATEST]]), torch.tensor([[4, LATEST]])).tolist() == [
        [0, UNKNOWN_AGE],
        [UNKNOWN_AGE, UNKNOWN_AGE],
    ]

    times = torch.tensor([[LATEST, 10, 20], [LATEST, LATEST, 30]])
    asked = torch.tensor([[25], [12], [11], [40]])
    found = moments_in_windows(torch.tensor([2, 1, 1, 5]), times, asked)
    assert found.tolist() == [[10, 11, 25], [LATEST, 30, 40]]


def test_windows_give_the_vectors_of_rows() -> None:
    made, queries = towers(moved=True)[0].eval(), prepared_queries()
    found = 0
    for batch in trainer((made, towers()[1])).history_batches.draw((0, 0)):  # type: ignore[union-attr]
        with torch.no_grad():
            windows = made(queries.batch(batch.queries, batch.spans))
            rows = made(queries.batch(batch.queries))
        whole = [n for n, each in enumerate(batch.queries) if is_whole(batch, n, each)]
        torch.testing.assert_close(windows[whole], rows[whole], rtol=0, atol=1e-5)
        found += len(whole)
    assert found > 20


def is_whole(batch: Any, place: int, query: int) -> bool:
    """Whether a record's window holds all that its row does."""
    assert DATA.histories is not None
    begin = max(DATA.histories.begin[query], DATA.histories.end[query] - LONGEST)
    return bool(batch.spans.begin[batch.spans.window[place]] == begin)


def test_each_time_counts() -> None:
    made = towers(moved=True)[0].eval()
    inputs: dict[str, Tensor] = {
        "history": torch.tensor([[0, 3, 4, 5]]),
        "history__times": torch.tensor([[LATEST, 1000, 2000, 9000]]),
        "time": torch.tensor([[10_000]]),
    }
    with torch.no_grad():
        before = made(inputs)
        for place in range(4):
            times = inputs["history__times"].clone()
            times[0, place] = -500_000
            changed = not torch.allclose(made({**inputs, "history__times": times}), before, atol=1e-3)
            assert changed == (place > 0)  # the first is padding
        assert not torch.allclose(made({**inputs, "time": torch.tensor([[900_000]])}), before, atol=1e-3)


@pytest.mark.parametrize("age_dropout", [0.0, 0.5, 1 - 1e-9])
def test_training_learns_from_ages_and_to_do_without_them(age_dropout: float) -> None:
    made = towers(age_dropout=age_dropout)
    training = trainer(made)
    assert len(tables(made)) == 3  # of two layers, and of the embedded items
    before = training.query_vectors().numpy().copy()
    for batch in training._batches()[1]:
        training._step(batch)
    assert np.abs(training.query_vectors().numpy() - before).max() > 1e-3
    for table in tables(made).values():
        learned = (table.detach() != 0).any(dim=1)
        assert learned[UNKNOWN_AGE] == (age_dropout > 0)
        assert learned[:UNKNOWN_AGE].any() == (age_dropout < 0.9)
        assert len(table) == AGE_ROWS


def test_a_dropped_item_has_no_age() -> None:
    encoder = AttentionEncoder(item_table(ITEMS, 8, 1.0), 2, 2, 0.0, 0.0, 5, beside=("times", "time")).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    times, asked = torch.tensor([[1000, 2000, 9000]]), torch.tensor([[9500]])
    rows = torch.tensor([[3, 0, 5]])  # as `HistoryDropout` leaves them
    changed = times.clone()
    changed[0, 1] = 2100  # which the moment of the first position follows, in the same bucket
    with torch.no_grad():
        torch.testing.assert_close(encoder(rows, times, asked), encoder(rows, changed, asked))


def test_ages_above_all_in_training_count_as_the_highest_of_these() -> None:
    made = towers()
    trained = trainer(made)
    trained.fit(Watcher())
    before = {name: table.detach().clone() for name, table in tables(made).items()}
    asked = prepared_queries().batch(np.arange(len(DATA.queries["time"])), None)
    architecture = architecture_of(TOWER)
    with torch.inference_mode():
        vectors = made[0](asked)
    assert architecture.fit_unseen(made, trained.items, DATA.counts())
    (highest,) = {int(table[:UNKNOWN_AGE].any(dim=1).nonzero().max()) for table in before.values()}
    assert highest < UNKNOWN_AGE - 1
    for name, table in tables(made).items():
        assert torch.equal(table[: highest + 1], before[name][: highest + 1])
        assert all(torch.equal(table[row], before[name][highest]) for row in range(highest, UNKNOWN_AGE))
        assert torch.equal(table[UNKNOWN_AGE], before[name][UNKNOWN_AGE])
    with torch.inference_mode():
        assert torch.equal(made[0](asked), vectors)  # whose ages training had
    again = {name: table.detach().clone() for name, table in tables(made).items()}
    architecture.fit_unseen(made, trained.items, DATA.counts())  # as a run that goes on may do
    assert all(torch.equal(table, again[name]) for name, table in tables(made).items())


def test_a_tower_that_reads_no_times_is_given_none() -> None:
    bare = schema_of_people(ITEMS, LONGEST)
    undated = DATA.as_read_by(bare.query)
    assert undated.histories is not None
    assert undated.histories.times is None
    assert undated.queries["history"][3] == [item for item, _ in DATA.queries["history"][3]] != []
    assert undated.queries["time"] == DATA.queries["time"]
    assert DATA.as_read_by(SCHEMA.query) is DATA
    batch = PreparedInputs(bare, "query", undated.queries, HASHING).batch(np.arange(5))
    assert [*batch] == ["history"]
    assert {"history", "history__times"} <= {*prepared_queries().batch(np.arange(5))}
