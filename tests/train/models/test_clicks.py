"""The towers of clicks: biases as coordinates, pooled feedback, and crosses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.click_logs import CLICKS_TOML, write_clicks
from tests.helpers.stdlib import completed, experiment_at
from twinspire.train.evaluation.label_baselines import item_shares
from twinspire.train.models.architectures.clicks import (
    ITEM_SMOOTHING,
    USER_FACTOR,
    USER_SMOOTHING,
    ClickTower,
    FeedbackEncoder,
    ItemCoordinates,
    QueryCoordinates,
)
from twinspire.train.models.towers import CosineHead
from twinspire.train.training.trained_model import build_model
from twinspire.train.training.trainer import Trainer


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


def test_towers_start_as_user_and_item_means_of_the_training_labels(tmp_path: Path) -> None:
    write_clicks(tmp_path, users=60, items=40, events=2500)
    toml = CLICKS_TOML.replace('kind = "history"', 'kind = "history"\nmax_length = 5')
    toml = toml.replace('kind = "negative_history"', 'kind = "negative_history"\nmax_length = 5')
    (tmp_path / "clicks.toml").write_text(toml)
    experiment, data = completed(*experiment_at(tmp_path / "clicks.toml"))
    query = {name: experiment.query[name] for name in ("history", "skipped")}
    experiment = replace(experiment, query=query, item={"id": experiment.item["id"]})
    model, prepared = build_model(experiment, data)
    trainer = Trainer(model.towers, data, prepared, experiment.loss, experiment.training)
    pairs = data.parts["test"]
    found = trainer.inner_products(pairs) + model.towers[0].head.score().bias
    shares = item_shares(data, ITEM_SMOOTHING)
    share_of = dict(zip(data.item_ids, shares, strict=True))
    for logit, asked, item in zip(found, pairs.query, pairs.item, strict=True):
        liked, skipped = (data.queries[name][asked] for name in ("history", "skipped"))
        residuals = [1 - share_of[each] for each in liked] + [-share_of[each] for each in skipped]
        user = USER_FACTOR * sum(residuals) / (len(residuals) + USER_SMOOTHING)
        assert logit == pytest.approx(np.log(shares[item] / (1 - shares[item])) + user, abs=0.01)
