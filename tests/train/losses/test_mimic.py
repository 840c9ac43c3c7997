"""Augmented vectors learn to imitate the vectors of the other side."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from protos.features import CategoryFeature, IdFeature, Schema
from tests.helpers.click_logs import CLICKS_TOML, write_clicks
from tests.helpers.stdlib import started
from train.config.towers import ClicksTower
from train.losses.mimic import split_augmented
from train.models.clicks import AugmentedVector, ClickTower
from train.models.tower_factory import build_towers
from train.models.towers import Tower
from train.training import trainer as training
from train.training.trained_model import trainer_of
from train.training.trainer import Trainer

SCHEMA = Schema(
    {"user": CategoryFeature("category", "user")},
    {"id": IdFeature("id"), "shop": CategoryFeature("category", "shop")},
    {"query.user": tuple("uvw"), "items": tuple("abcd"), "item.shop": ("x", "y")},
)
USERS = torch.tensor([[2], [3], [4]])
ITEMS = {"id": torch.tensor([[2], [3], [4], [5]]), "shop": torch.tensor([[2], [3], [2], [1]])}


def made(**keys: Any) -> tuple[Tower, Tower]:
    """Towers in training, away from their start; the radius of the inner product is not 1."""
    torch.manual_seed(0)
    towers = build_towers(ClicksTower("clicks", dimension=3, dropout=0.0, characters=(), **keys), SCHEMA)
    with torch.no_grad():
        for parameter in {each for tower in towers for each in tower.parameters()}:
            parameter.add_(torch.randn_like(parameter))
        towers[1].head.radius.fill_(2.5)  # type: ignore[operator]
    return towers[0].train(), towers[1].train()


def test_the_loss_is_that_of_the_formula() -> None:
    towers = made(augment=0.5, augment_query="user")
    raw = towers[0]({"user": USERS}), towers[1](ITEMS)
    queries, items, mimic = split_augmented(towers, *raw)
    assert queries is not None
    assert mimic is not None
    assert queries.shape[1] == items.shape[1] == raw[0].shape[1] - 4 == 6
    query, item = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 3, 1, 1])
    positive = torch.tensor([True, False, True, True])
    found = mimic.of_pairs(query, item, positive)

    u, v = (
        tower.deep(tower.encode_features(x))
        for tower, x in zip(towers, ({"user": USERS}, ITEMS), strict=True)
    )
    u = u * towers[0].head.weight
    p_u, p_v = u[:, :4], v[:, [0, 1, 2, 4]]  # [u, b_u], [v, b_v]
    assert torch.allclose(u @ v.T, queries @ items.T, atol=1e-5)  # what imitates and what scores are the same
    a_u, a_v = (table(tower)[2:] for tower in towers)
    for n, (left, right) in enumerate(zip(query, item, strict=True)):
        expected = (a_u[left] - p_v[right]).square().sum() + (a_v[right] - p_u[left]).square().sum()
        assert found[n].item() == pytest.approx(0.5 * expected.item() * positive[n].item(), rel=1e-5)


def test_the_loss_changes_augmented_vectors_alone() -> None:
    towers = made(augment=0.5, augment_query="user")
    *_, mimic = split_augmented(towers, towers[0]({"user": USERS}), towers[1](ITEMS))
    assert mimic is not None
    pairs = torch.tensor([0, 1]), torch.tensor([1, 2])
    mimic.of_pairs(*pairs, torch.tensor([True, False])).sum().backward()  # type: ignore[no-untyped-call]
    learns = {
        name
        for tower in towers
        for name, each in tower.named_parameters()
        if each.grad is not None and each.grad.any()
    }
    assert learns == {"augmented.ids.table"}
    assert [table(tower).grad.any(dim=1).nonzero().flatten().tolist() for tower in towers] == [[2], [3]]  # type: ignore[union-attr]


def test_a_query_without_an_id_imitates_nothing() -> None:
    towers = made(augment=0.5)
    queries: Tensor = towers[0]({"user": USERS})
    found, items, mimic = split_augmented(towers, queries, towers[1](ITEMS))
    assert found is queries
    assert items.shape[1] == queries.shape[1]
    assert mimic is not None
    assert list(mimic.augmented) == [1]
    assert split_augmented(towers, None, towers[1](ITEMS))[::2] == (None, None)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    write_clicks(folder, users=40, items=30, events=3000)
    return folder


def trained(log: Path, keys: str, epochs: int = 3, dropout: float = 0.2) -> Trainer:
    """Trained towers of clicks.

    Args:
        keys: of the tower, added to its section.
        epochs: number of epochs.
    """
    toml = CLICKS_TOML.replace("batch_size = 256", "batch_size = 64")
    (log / "a.toml").write_text(toml.replace("dimension = 8", f"dimension = 8\ndropout = {dropout}\n{keys}"))
    model, data, prepared = started(log / "a.toml")
    trainer = trainer_of(model, data, prepared)
    for epoch in range(epochs):
        trainer.begin_epoch(epoch, 0, None)
        while trainer.state.step < trainer._steps:
            trainer.next_step()
    return trainer


def table(tower: Tower) -> Tensor:
    assert isinstance(tower, ClickTower)
    assert isinstance(tower.augmented, AugmentedVector)
    return tower.augmented.ids.table


def unexplained(trainer: Trainer) -> tuple[float, float]:
    """Squared distance of augmented vectors to what they imitate, over its size; of queries, and of items."""
    towers, pairs = trainer.towers, trainer.pairs.positive()
    for tower in towers:
        tower.train()
    with torch.no_grad():
        queries = towers[0](trainer.queries.batch(pairs.query))
        items = towers[1](trainer.items.batch(pairs.item))
        *_, mimic = split_augmented(towers, queries, items)
    assert mimic is not None
    distance = [(mimic.augmented[side] - mimic.imitated[1 - side]).square().sum() for side in (0, 1)]
    size = [mimic.imitated[1 - side].square().sum() for side in (0, 1)]
    return float(distance[0] / size[0]), float(distance[1] / size[1])


def test_training_draws_augmented_vectors_to_the_other_side(log: Path) -> None:
    near = unexplained(trained(log, 'augment = 1.0\naugment_query = "user"', dropout=0.0))
    far = unexplained(trained(log, 'augment = 1e-6\naugment_query = "user"', dropout=0.0))
    assert max(near) < 0.5
    assert min(far) > 0.9


def test_the_weight_0_trains_as_without_the_loss(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = trained(log, "augment = 0.0", epochs=1)
    monkeypatch.setattr(training, "split_augmented", lambda towers, queries, items: (queries, items, None))
    without = trained(log, "", epochs=1)
    assert with_it.state.losses == without.state.losses
    for one, other in zip(with_it.towers, without.towers, strict=True):
        here, there = one.state_dict(), other.state_dict()
        assert list(here) == list(there)
        assert all(map(torch.equal, here.values(), there.values()))
        assert not any("augmented" in name for name in here)


def test_an_item_tower_starts_as_without_augmented_vectors() -> None:
    starts = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        _, item = build_towers(ClicksTower("clicks", augment=weight, characters=()), SCHEMA)
        starts.append(item.eval()(ITEMS))
    assert torch.equal(*starts)
