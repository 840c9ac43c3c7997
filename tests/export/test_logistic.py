"""A linear layer over the product of the two vectors.

The score sigmoid(w . (q * d) + b) is no distance; it is served by a graph of neighbours all the same.
"""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.helpers import graphs
from twinspire.export import ann
from twinspire.train.config.index import IndexConfig
from twinspire.train.models.towers import ItemDotHead, LogisticHead

pytestmark = pytest.mark.exhaustive

ITEMS, USERS, DIMENSION = 5000, 300, 32


def catalogue() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], LogisticHead, ItemDotHead]:
    """Raw vectors of users and of items, some items many times as long as others, and heads that know them.

    Items lie in clusters, and users where those of some cluster please them, as training puts them.
    """
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    centres = normal(100, DIMENSION)
    items = centres[torch.randint(100, (ITEMS,), generator=random)] + 0.7 * normal(ITEMS, DIMENSION)
    items *= torch.exp(0.5 * normal(ITEMS, 1))
    radius = torch.ones(())
    logistic, lift = LogisticHead(radius, DIMENSION).requires_grad_(False), ItemDotHead(radius)
    logistic.weight.copy_((0.5 + torch.rand(DIMENSION, generator=random)) * torch.sign(normal(DIMENSION) + 1))
    logistic.bias.fill_(-1.5)
    users = (centres[torch.randint(100, (USERS,), generator=random)] + 0.7 * normal(USERS, DIMENSION)) / 30
    lift.fit_to_catalogue(lift(items))
    return (users / logistic.weight).numpy(), items.numpy(), logistic, lift


def test_the_graph_ranks_by_the_models_own_score() -> None:
    users, items, logistic, lift = catalogue()
    weighted = np.asarray(users * logistic.weight.numpy(), np.float32)
    logits = weighted.astype(np.float64) @ items.T.astype(np.float64) + float(logistic.bias)
    scores = 1 / (1 + np.exp(-logits))
    best = np.argsort(-scores, axis=1)[:, :10]
    queries = logistic(torch.from_numpy(users)).numpy()
    lifted = lift(torch.from_numpy(items)).numpy()
    lengths = np.linalg.norm(items, axis=1)
    assert lengths.max() > 5 * np.median(lengths)
    assert np.ptp(scores, axis=1).mean() > 0.3
    np.testing.assert_allclose(np.linalg.norm(lifted, axis=1), 1, atol=1e-5)
    found = 1 / (1 + np.exp(-(queries @ lifted.T + float(logistic.bias)).astype(np.float64)))
    np.testing.assert_allclose(found, scores, atol=1e-5)

    config = IndexConfig(m=16, ef_construction=200, threads=1, seed=0)
    graph = graphs.build(lifted, config, logistic.score())
    tuned = ann.choose_ef(graph, queries[:150], config)
    assert tuned.reached
    assert shared(ann.approximate(graph, queries[150:], 10, tuned.ef_search), best[150:]) >= 0.98
    cosines = weighted @ (items / lengths[:, None]).T  # which are no substitute
    assert shared(np.argsort(-cosines, axis=1)[:, :10], best) < 0.5
    filled = graphs.build(lifted, config)  # nor is the graph by distance of items filled up to one length
    at_width = [shared(ann.approximate(each, queries, 10, 20), best) for each in (graph, filled)]
    assert at_width[0] > at_width[1] + 0.1


def shared(found: ann.Rows, best: ann.Rows) -> float:
    return float(np.mean([len({*one} & {*other}) / 10 for one, other in zip(found, best, strict=True)]))
