"""A step that fits what a parameter is, warm-up and decay."""

from typing import Any

import torch

from twinspire.protos.features import HistoryFeature, IdFeature, Schema, TextFeature
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.config.towers import BagTower
from twinspire.train.models.optimiser import (
    WEIGHTS_FACTOR,
    adam,
    set_learning_rate,
    with_dense_gradients,
)
from twinspire.train.models.tower_factory import architecture_of

TEXT = TextFeature("text", "text")
SCHEMA = Schema({"text": TEXT}, {"text": TEXT})


def test_tables_and_weights_have_steps_of_their_size() -> None:
    towers = architecture_of(BagTower("bag", 16, 0, item_hidden=8, buckets=64)).build(SCHEMA)
    deep: Any = towers[1].deep
    rates = {p: group["lr"] for group in adam(towers, 0.1).param_groups for p in group["params"]}
    for tower in towers:
        text: Any = tower.encoders["text"]
        assert rates[text.table] == 0.1 / 4
        assert rates[text.weights] == 0.1 * WEIGHTS_FACTOR
    assert rates[deep.inner.weight] == 0.1


def test_steps_with_sparse_gradients_are_those_with_dense_ones() -> None:
    """Rows of one step keep moving in the next, which looks others up, and one occurs twice."""
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    tables = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    dense, sparse = (torch.optim.Adam([table], lr=0.1, fused=True) for table in tables)
    with_dense_gradients(sparse)
    for rows in ([0, 2, 2], [4, 1], [2]):
        for table, optimiser, is_sparse in zip(tables, (dense, sparse), (False, True), strict=True):
            optimiser.zero_grad()
            vectors = torch.nn.functional.embedding(torch.tensor(rows), table, sparse=is_sparse)
            vectors.square().sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        torch.testing.assert_close(tables[1], tables[0])
    assert (tables[0] != start).any(dim=1).tolist() == [True, True, True, False, True, False]


def test_the_rate_rises_then_falls_to_zero() -> None:
    towers = architecture_of(BagTower("bag", 16, 0, item_hidden=8, buckets=64)).build(SCHEMA)
    optimiser = adam(towers, 0.1)
    shares = [set_learning_rate(optimiser, step / 20, 10, 20) for step in range(200)]
    top = shares.index(max(shares))
    assert shares[:top] == sorted(shares[:top])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert 0 < shares[0] <= 0.1
    assert 0.95 < max(shares) <= 1
    assert top <= 10
    assert shares[-1] < 1e-3
    assert all(group["lr"] == group["peak"] * shares[-1] for group in optimiser.param_groups)
    assert set_learning_rate(optimiser, 0, 1, 1) == 1


def test_the_rate_goes_by_epochs_whatever_their_length() -> None:
    optimiser = adam(architecture_of(BagTower("bag", 16, 0, item_hidden=8, buckets=64)).build(SCHEMA), 0.1)
    early, late = (
        [set_learning_rate(optimiser, done, 10, steps) for steps in (20, 23)] for done in (0.2, 7.5)
    )
    assert late[0] == late[1] < 0.2
    assert early[0] > early[1]  # the warm-up counts a step ahead, to begin above zero
    assert set_learning_rate(optimiser, 10, 10, 20) == 0


def test_what_is_not_learned_has_no_step() -> None:
    features = IdFeature("id"), HistoryFeature("history", max_length=5)
    schema = Schema({"history": features[1]}, {"id": features[0]}, {"items": ("a", "b")})
    towers = architecture_of(SequenceTower("sequence", latent=2)).build(schema)
    grouped = {p for group in adam(towers, 0.1).param_groups for p in group["params"]}
    fixed: Any = [*towers[0].factors.values(), *towers[1].factors.values()]
    assert not {each.table for each in fixed} & grouped
    assert grouped == {p for tower in towers for p in tower.parameters() if p.requires_grad}
