"""An item with an unknown id gets the vector that a ridge regression on its content predicts."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    NumberFeature,
    Schema,
    TextFeature,
)
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.models.cold_start import fit_content_fallback
from twinspire.train.models.initialization import fit_number_encoders
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import Tower

KNOWN, NEW, WIDTH, STRENGTH = 30, 6, 4, 2.0
GENRES = ("crime", "drama", "western")
CONTENT: dict[str, FeatureSpec] = {
    "genres": CategoryFeature("category", "genres", multi=True),
    "year": NumberFeature("number", "year"),
}
TITLE: dict[str, FeatureSpec] = {"title": TextFeature("text", "title")}
COUNTS = np.r_[np.random.default_rng(0).integers(1, 40, KNOWN), np.zeros(NEW, np.int64)]


def values_of() -> dict[str, list[Any]]:
    """Known items, then new items, some of them without content."""
    generator = np.random.default_rng(1)
    count = KNOWN + NEW
    drawn = [generator.permutation(GENRES)[: generator.integers(0, 4)].tolist() for _ in range(count)]
    years = [float(year) if year > 1960 else None for year in generator.integers(1950, 2000, count)]
    return {
        "id": [f"i{n}" for n in range(count)],
        "genres": drawn,
        "year": years,
        "title": [" and ".join(each) or "none" for each in drawn],
    }


def fitted(content: dict[str, FeatureSpec], alpha: float) -> tuple[Tower, PreparedInputs, Tensor, Tensor]:
    """An item tower with random encoders, the items, and their vectors before and after the fit."""
    config = SequenceTower("sequence", dimension=WIDTH, buckets=512)
    vocabularies = {"items": tuple(f"i{n}" for n in range(KNOWN))} | {"item.genres": GENRES}
    schema = Schema({"past": HistoryFeature("history")}, {"id": IdFeature("id"), **content}, vocabularies)
    torch.manual_seed(0)
    _, tower = architecture_of(config).build(schema)
    for parameter in tower.encoders.parameters():
        nn.init.normal_(parameter)
    tower.head = nn.Identity()  # type: ignore[assignment]
    values = {name: each for name, each in values_of().items() if name in schema.item}
    fit_number_encoders(tower, "item", {"query": {}, "item": values})
    items = PreparedInputs(schema, "item", values, architecture_of(config).hashing())
    before = vectors(tower, items)
    fit_content_fallback(tower, items, COUNTS, alpha, STRENGTH)
    return tower, items, before, vectors(tower, items)


@torch.no_grad()
def vectors(tower: Tower, items: PreparedInputs) -> Tensor:
    found: Tensor = tower(items.batch(np.arange(len(items))))
    return found


def design() -> npt.NDArray[np.float64]:
    """(N, 5): the share of each genre, the standardised year and whether it is absent."""
    values = values_of()
    shares = [[each.count(genre) / max(1, len(each)) for genre in GENRES] for each in values["genres"]]
    years = [year for year in values["year"] if year is not None]
    standard = [0.0 if y is None else (y - np.mean(years)) / np.std(years) for y in values["year"]]
    absent = [float(year is None) for year in values["year"]]
    return np.column_stack([shares, standard, absent])


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_fallback_is_the_ridge_regression_of_the_learned_vectors(alpha: float) -> None:
    _, _, before, after = fitted(CONTENT, alpha)
    x, y = design(), before[:KNOWN].double().numpy()
    weight = COUNTS[:KNOWN].astype(float) ** alpha
    weight /= weight.mean()
    middle_x, middle_y = (np.average(each, axis=0, weights=weight) for each in (x[:KNOWN], y))
    centred = x[:KNOWN] - middle_x
    gram = centred.T @ (weight[:, None] * centred) + STRENGTH * np.eye(x.shape[1])
    solved = np.linalg.solve(gram, centred.T @ (weight[:, None] * (y - middle_y)))
    expected = middle_y + (x[KNOWN:] - middle_x) @ solved
    np.testing.assert_allclose(after[KNOWN:], expected, atol=2e-3)
    assert np.abs(expected - middle_y).max() > 0.1


def test_without_content_an_unknown_item_is_the_average_item() -> None:
    _, _, before, after = fitted({}, 1.0)
    expected = np.average(before[:KNOWN].numpy(), axis=0, weights=COUNTS[:KNOWN])
    np.testing.assert_allclose(after[KNOWN:], np.tile(expected, (NEW, 1)), atol=1e-5)


def test_items_with_similar_titles_get_similar_vectors() -> None:
    tower, _, _, after = fitted(TITLE, 1.0)
    titles = values_of()["title"]
    assert tower.newcomers is not None
    for new in range(KNOWN, KNOWN + NEW):
        alike = [n for n in range(KNOWN) if titles[n] == titles[new]]
        others = [n for n in range(KNOWN) if not {*titles[n].split()} & {*titles[new].split()} - {"and"}]
        if alike and others:
            near, far = (after[rows].mean(dim=0) - after[new] for rows in (alike, others))
            assert near.norm() < far.norm()
