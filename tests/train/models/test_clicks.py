"""The towers of clicks: biases as coordinates, pooled feedback, crosses and gates."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from train.models.clicks import (
    AugmentedVector,
    ClickTower,
    FeedbackEncoder,
    Gates,
    ItemCoordinates,
    QueryCoordinates,
)
from train.models.heads import CosineHead


class Given(nn.Module):
    """An encoder whose output is its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def tower(coordinates: nn.Module, **options: Any) -> ClickTower:
    tower = ClickTower({"a": Given(), "b": Given(), "c": Given()}, coordinates, CosineHead(), **options)
    return tower.eval()


def test_the_product_of_the_coordinates_is_that_of_a_factorisation_machine() -> None:
    torch.manual_seed(0)
    query = {name: torch.randn(5, 4) for name in "abc"}
    item = {name: torch.randn(5, 4) for name in "abc"}
    u = QueryCoordinates(0.0)(tower(nn.Identity(), crosses=True).encode_features(query))
    v = ItemCoordinates()(tower(nn.Identity(), crosses=True).encode_features(item))
    features = [*query.values(), *item.values()]
    expected = torch.stack(features)[:, :, 3].sum(dim=0)
    for n, one in enumerate(features):
        for other in features[n + 1 :]:
            expected = expected + (one[:, :3] * other[:, :3]).sum(dim=1)
    assert torch.allclose((u * v).sum(dim=1), expected, atol=1e-5)


def test_without_crosses_the_features_of_a_side_add_up() -> None:
    inputs = {name: torch.randn(5, 4) for name in "abc"}
    total = tower(nn.Identity()).encode_features(inputs)
    assert torch.allclose(total, inputs["a"] + inputs["b"] + inputs["c"])
    crossed = tower(nn.Identity(), crosses=True).encode_features(inputs)
    assert torch.allclose(crossed[:, :3], total[:, :3], atol=1e-6)
    assert not torch.allclose(crossed[:, 3], total[:, 3])


def test_gates_start_as_one_and_weigh_features_by_each_other() -> None:
    torch.manual_seed(0)
    gates, features = Gates(3), torch.randn(5, 3, 4)
    assert torch.allclose(gates(features), features)
    nn.init.normal_(gates.excite.weight)
    ratio = gates(features) / features
    assert torch.allclose(ratio, ratio[:, :, :1].expand_as(ratio), atol=1e-5)  # one weight for a feature
    assert ratio.std() > 0.01


def test_feedback_of_both_kinds_is_pooled_and_shrunk_together() -> None:
    liked, skipped = (nn.Parameter(torch.randn(9, 3)) for _ in range(2))
    encoder = FeedbackEncoder({"liked": liked, "skipped": skipped})
    with torch.no_grad():
        encoder.each["skipped"].fill_(0.5)
        encoder.none.fill_(0.25)
    inputs = {"liked": torch.tensor([[0, 2, 3], [0, 0, 0]]), "skipped": torch.tensor([[4], [0]])}
    found = encoder(inputs)
    k = float(encoder.shrinkage.detach().exp())
    expected = (liked[2] + liked[3] + skipped[4] + 0.5 + k * 0.25) / (3 + k)
    assert torch.allclose(found[0], expected, atol=1e-6)
    assert torch.allclose(found[1], torch.full((3,), 0.25), atol=1e-6)  # nothing is known


@pytest.mark.parametrize("width", [1, 4])
def test_padding_in_front_changes_nothing(width: int) -> None:
    encoder = FeedbackEncoder({"liked": nn.Parameter(torch.randn(9, 3))})
    rows = torch.tensor([[2, 3]])
    padded = torch.cat([torch.zeros(1, width, dtype=torch.int64), rows], dim=1)
    assert np.allclose(encoder({"liked": rows}).detach(), encoder({"liked": padded}).detach())


def augmented(weight: float = 0.5) -> AugmentedVector:
    torch.manual_seed(0)
    return AugmentedVector(nn.Parameter(torch.randn(6, 4)), weight)


def test_only_known_ids_have_an_augmented_vector() -> None:
    layer, rows = augmented(), torch.tensor([[0], [1], [2], [5]])
    assert torch.equal(layer.vectors(rows)[:2], torch.zeros(2, 4))
    assert torch.equal(layer.vectors(rows)[2:], layer.ids.table[[2, 5]])
    assert not layer(rows).any()  # at the start it adds nothing to the features
    nn.init.normal_(layer.map.weight)
    assert torch.equal(layer(rows)[:2], torch.zeros(2, 4))
    layer.vectors(rows).sum().backward()  # type: ignore[no-untyped-call]
    assert layer.ids.table.grad is not None
    assert layer.ids.table.grad.sum(dim=1).tolist() == [0, 0, 4, 0, 0, 4]


@pytest.mark.parametrize("options", [{}, {"crosses": True}, {"gates": Gates(4), "crosses": True}])
def test_an_augmented_vector_is_one_more_feature(options: dict[str, Any]) -> None:
    inputs = {name: torch.randn(5, 4) for name in "abc"}
    layer = augmented()
    nn.init.normal_(layer.map.weight)
    rows = torch.arange(1, 6)[:, None]
    with_it = tower(nn.Identity(), augmented=("id", layer), **options)
    expected = ClickTower(dict.fromkeys("abcd", Given()), nn.Identity(), CosineHead(), **options)
    found = with_it.encode_features({**inputs, "id": rows})
    assert torch.allclose(found, expected.encode_features({**inputs, "d": layer(rows)}), atol=1e-5)


def test_augmented_vectors_stand_beside_the_vectors_in_training_alone() -> None:
    inputs = {**{name: torch.randn(5, 4) for name in "abc"}, "id": torch.arange(1, 6)[:, None]}
    layer = augmented()
    each = tower(QueryCoordinates(0.0), augmented=("id", layer))
    vectors = each(inputs)
    assert vectors.shape == (5, 5)
    assert torch.equal(each.train()(inputs), torch.cat([vectors, layer.vectors(inputs["id"])], dim=1))


class Unknown(nn.Module):
    """Replaces all ids by "unknown"."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(rows)


def test_a_dropped_id_still_imitates() -> None:
    """As `id_dropout` does: the features are those of an unknown item, and the loss reads the id."""
    inputs = {**{name: torch.randn(3, 4) for name in "abc"}, "id": torch.tensor([[2], [3], [4]])}
    layer = augmented()
    nn.init.normal_(layer.map.weight)
    dropped = tower(ItemCoordinates(), augmented=("id", layer), prepare={"id": Unknown()})
    found = dropped.train()(inputs)
    assert torch.allclose(found[:, :5], tower(ItemCoordinates())(inputs))
    assert torch.equal(found[:, 5:], layer.vectors(inputs["id"]))
