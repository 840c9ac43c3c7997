"""Heads keep the inner products, and the order by distance is the order by product."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from twinspire.train.models.towers import CosineHead, ItemDotHead, LogisticHead, QueryDotHead

RADII = pytest.mark.parametrize("radius", [0.05, 1.0, 37.0])


def vectors(count: int, seed: int, dimension: int = 5) -> Tensor:
    """Vectors of very different lengths, one of them zero."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 10 ** (2 * torch.rand(count, 1, generator=generator) - 1)
    raw = torch.randn(count, dimension, generator=generator) * lengths
    raw[count // 2] = 0
    return raw


@RADII
def test_items_have_unit_length_after_the_fit_and_products_do_not_change(radius: float) -> None:
    shared = torch.tensor(radius)
    query_head, item_head = QueryDotHead(shared), ItemDotHead(shared)
    queries, items = vectors(20, 0), vectors(30, 1)
    enclosed = item_head.fit_to_catalogue(item_head(items))
    assert enclosed.shape == (30, 6)
    torch.testing.assert_close(enclosed.norm(dim=1), torch.ones(30))
    torch.testing.assert_close(query_head(queries) @ enclosed.T, queries @ items.T, rtol=1e-4, atol=1e-4)
    longest = float(items.norm(dim=1).max())
    assert longest <= float(query_head.radius) < 1.1 * longest  # the query's head shares it
    for again in (item_head(items), item_head.fit_to_catalogue(enclosed)):
        torch.testing.assert_close(again, enclosed, rtol=0, atol=2e-5)


@given(st.integers(0, 1000))
def test_the_order_by_product_is_the_order_by_distance(seed: int) -> None:
    shared = torch.ones(())
    query_head, item_head = QueryDotHead(shared), ItemDotHead(shared)
    queries, items = vectors(4, seed).double(), vectors(12, seed + 1).double()
    points = item_head.fit_to_catalogue(item_head(items))
    products = queries @ items.T
    lifted = query_head(queries)
    distances = torch.cdist(lifted, points, compute_mode="donot_use_mm_for_euclid_dist")
    for product, distance in zip(products, distances, strict=True):
        if product.abs().max() > 0:  # to the zero vector all are as near
            ranked = product[distance.argsort()]
            assert (ranked.diff() <= 1e-9).all()


def test_the_radius_is_left_where_all_items_are_zero() -> None:
    shared = torch.tensor(2.0)
    item_head = ItemDotHead(shared)
    enclosed = item_head.fit_to_catalogue(item_head(torch.zeros(3, 4)))
    assert float(shared) == 2
    torch.testing.assert_close(enclosed.norm(dim=1), torch.ones(3))


def test_the_longest_item_has_a_gradient_like_any_other() -> None:
    items = torch.tensor([[3.0, 4.0], [0.3, 0.4]], requires_grad=True)
    item_head = ItemDotHead(torch.tensor(5.0))
    (item_head(items) @ torch.tensor([1.0, 1.0, 0.0])).sum().backward()
    torch.testing.assert_close(items.grad, torch.full((2, 2), 0.2))


@RADII
def test_the_logistic_head_folds_in_weights_and_bias(radius: float) -> None:
    torch.manual_seed(0)
    shared = torch.tensor(radius)
    query_head, item_head = LogisticHead(shared, 5), ItemDotHead(shared)
    with torch.no_grad():
        query_head.weight.normal_()
        query_head.bias.fill_(-0.7)
    queries, items = torch.randn(2, 20, 5)
    points = item_head.fit_to_catalogue(item_head(items))
    with torch.no_grad():
        product = (query_head(queries) * points).sum(dim=1).double().numpy()
    score = query_head.score()
    assert score.kind == "sigmoid"
    w = query_head.weight.detach().double().numpy()
    logits = (queries.double().numpy() * items.double().numpy()) @ w - 0.7
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(1 / (1 + np.exp(-(product + score.bias))), expected, atol=1e-6)
    assert expected.std() > 0.1


def test_a_cosine_does_not_depend_on_the_length() -> None:
    unit, raw = CosineHead(), vectors(10, 0)
    found = unit(raw)
    present = raw.norm(dim=1) > 0
    torch.testing.assert_close(found[present].norm(dim=1), torch.ones(9))
    torch.testing.assert_close(unit(raw * 7), found)
    assert found[~present].abs().max() == 0
