"""Several vectors of a history, and the one of them that a pair trains."""

import numpy as np
import pytest
import torch
from torch import Tensor

from twinspire.train.models.architectures.comirec import InterestsEncoder
from twinspire.train.models.sequence_encoders import item_table
from twinspire.train.models.towers import (
    InterestsHead,
    QueryDotHead,
    largest_products,
    paired_products,
    products,
    route,
)

K, D = 3, 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_an_interest_is_the_mean_of_the_items_by_its_own_weights() -> None:
    torch.manual_seed(0)
    encoder = InterestsEncoder(item_table(6, D, 1.0), K, 5, 0.0, 9).eval()
    torch.nn.init.normal_(encoder.distance)
    history = [3, 7, 3, 5]
    found = encoder(torch.tensor([[0, 0, *history]]))[0].detach().numpy()
    table, inner, outer, distance = (
        each.detach().double().numpy()
        for each in (encoder.table, encoder.inner.weight, encoder.outer.weight, encoder.distance)
    )
    for k in range(K):
        newer = range(len(history) - 1, -1, -1)
        logits = [
            outer[k] @ np.tanh(inner @ table[j]) + distance[n, k] for j, n in zip(history, newer, strict=True)
        ]
        weights = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(found[k], weights @ table[history], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_the_vectors_of_a_query_stand_side_by_side() -> None:
    head = InterestsHead(QueryDotHead(torch.tensor(2.0)), K)
    x = drawn(5, K, D)
    expected = torch.cat([2 * x, torch.zeros(5, K, 1)], dim=2)
    assert torch.equal(head(x).view(5, K, D + 1), expected)
    assert (head.interests, head.score().kind) == (K, "inner_product")


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_products_and_their_gradients_are_those_of_matrices(rows: int, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, 12), (5, 12), (5,)
    values = [torch.randn(shape, generator=generator, dtype=kind) for shape in shapes]
    own, other = ([each.clone().requires_grad_() for each in values] for _ in range(2))
    found, expected = products(*own), other[0] @ other[1].T + other[2]
    torch.testing.assert_close(found, expected)
    for each in (found, expected):
        each.square().sum().backward()  # type: ignore[no-untyped-call]
    for mine, theirs in zip(own, other, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_products_with_items_are_the_largest() -> None:
    queries, items = drawn(6, K * D), drawn(5, D)
    each = torch.stack([queries[:, n * D : (n + 1) * D] @ items.T for n in range(K)])
    torch.testing.assert_close(largest_products(queries, items), each.amax(dim=0))
    query, item = torch.tensor([0, 5, 2]), torch.tensor([4, 0, 4])
    paired = paired_products(queries[query], items[item])
    torch.testing.assert_close(paired, each.amax(dim=0)[query, item])
    one = queries[:, :D]
    torch.testing.assert_close(largest_products(one, items), one @ items.T)
    assert torch.equal(paired_products(one[:5], items), (one[:5] * items).sum(dim=1))


def test_a_pair_trains_the_vector_nearest_to_its_item_alone() -> None:
    queries = drawn(4, K * D).requires_grad_()
    query, own = torch.tensor([3, 0, 3, 1, 0]), drawn(5, D)
    routed = route(queries, query, own)
    each = queries.detach().view(4, K, D)[query]
    nearest = (each * own[:, None]).sum(dim=2).argmax(dim=1)
    assert torch.equal(routed, each[torch.arange(5), nearest])
    (gradient,) = torch.autograd.grad(routed[2].sum(), queries)
    expected = torch.zeros(4, K, D)
    expected[3, nearest[2]] = 1
    assert torch.equal(gradient.view(4, K, D), expected)
