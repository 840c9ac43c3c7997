"""Ratings as labels, and a linear layer over the product of the two vectors.

The score sigmoid(w . (q * d) + b) is no distance; it is served by a graph of neighbours all the same.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.helpers import graphs
from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import QUICK, Made, make_of, shared_made, tracking_at
from tests.helpers.watched import RATINGS, write_toml
from twinspire.export import ann
from twinspire.export.onnx.export import frozen
from twinspire.export.onnx.runtimes import torch_encoder
from twinspire.protos import bundle
from twinspire.protos.bundle import Score
from twinspire.serving.retrieval.query import example_query
from twinspire.train.config import IndexConfig
from twinspire.train.data.training_data import training_data_of
from twinspire.train.models.heads import ItemDotHead, LogisticHead
from twinspire.train.training.trained_model import load_model

pytestmark = pytest.mark.exhaustive

ITEMS, USERS, DIMENSION = 5000, 300, 32


@pytest.fixture(scope="module")
def rated(films: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    quick = {**RATINGS, **QUICK, "baselines": {"run": []}}

    def make(folder: Path) -> Made:
        return make_of(write_toml(films, folder / "a.toml", "rated", quick), empty_store, folder)

    return shared_made(tmp_path_factory, "rated", make)


def test_the_served_score_is_that_of_the_formula(rated: Made) -> None:
    data = training_data_of(rated.dataset, rated.experiment.query, rated.experiment.item)
    rows, _ = data.parts["test"].by_query()
    people = {name: [values[row] for row in rows] for name, values in data.queries.items()}
    with tracking_at(rated.uri):
        model = load_model(rated.run)
    query_tower, item_tower = (frozen(tower) for tower in model.towers)
    head = query_tower.head
    assert isinstance(head, LogisticHead)
    weight, bias = head.weight.numpy(), float(head.bias)
    assert np.abs(weight - 1).max() > 0.01  # learned, and so is the bias
    assert abs(bias) > 1e-3
    query_tower.head = item_tower.head = torch.nn.Identity()  # type: ignore[assignment]
    q = torch_encoder(query_tower)(model.schema.side("query").to_arrays(people))  # (U, D)
    d = torch_encoder(item_tower)(model.schema.side("item").to_arrays(data.items))  # (N, D)
    logits = np.einsum("d,ud,nd->un", weight.astype(np.float64), q, d) + bias
    expected = 1 / (1 + np.exp(-logits))

    questions = [example_query({name: values[n] for name, values in people.items()}) for n in range(len(q))]
    with client_of(rated.folder) as client:
        parts = [
            questions[n : n + 100] for n in range(0, len(questions), 100)
        ]  # an answer has a bound on items
        answers = [
            answer for part in parts for answer in client.search_batch(part, len(d), exclude_history=False)
        ]
    assert len(answers) == len(expected) > 250
    row_of = {item: row for row, item in enumerate(data.item_ids)}
    for answer, scores in zip(answers, expected, strict=True):
        assert len(answer.hits) == len(d)
        found = np.array([hit.score for hit in answer.hits])
        assert np.abs(found - scores[[row_of[hit.id] for hit in answer.hits]]).max() < 1e-5
        assert (np.diff(found) <= 0).all()
    assert np.ptp(expected, axis=1).mean() > 0.1  # of which it is no feat to be right


def test_the_report_has_the_auc_of_likes_and_dislikes(rated: Made) -> None:
    manifest = bundle.read(rated.folder)
    assert manifest.score.kind == "sigmoid"
    quality, logged = manifest.quality, rated.metrics
    test = rated.dataset.part("test")["label"].to_numpy() > 0
    share = test.mean()
    assert 0.2 < share < 0.8
    assert quality["labelled_pairs"] == len(test)
    assert quality["auc"] > 0.7
    assert quality["log_loss"] < -(share * np.log(share) + (1 - share) * np.log(1 - share)) - 0.05
    for name in ("auc", "log_loss", "itemmean_auc", "itemmean_log_loss"):
        assert quality[name] == pytest.approx(logged[name], abs=1e-4)
    assert "AUC" in quality["verdict"]


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


@pytest.mark.parametrize("seed", [0, 1])
def test_the_graph_ranks_by_the_models_own_score(seed: int) -> None:
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

    config = IndexConfig(m=16, ef_construction=200, threads=1, seed=seed)
    graph = graphs.build(lifted, config, logistic.score())
    tuned = ann.tune(graph, queries[:150], config)
    assert tuned.reached
    assert shared(ann.approximate(graph, queries[150:], 10, tuned.ef_search), best[150:]) >= 0.98
    cosines = weighted @ (items / lengths[:, None]).T  # which are no substitute
    assert shared(np.argsort(-cosines, axis=1)[:, :10], best) < 0.5
    filled = graphs.build(lifted, config)  # nor is the graph by distance of items filled up to one length
    at_width = [shared(ann.approximate(each, queries, 10, 20), best) for each in (graph, filled)]
    assert at_width[0] > at_width[1] + 0.1


def shared(found: ann.Rows, best: ann.Rows) -> float:
    return float(np.mean([len({*one} & {*other}) / 10 for one, other in zip(found, best, strict=True)]))


def test_scores_of_labels_are_sigmoids_with_the_learned_bias(rated: Made) -> None:
    with tracking_at(rated.uri):
        head = load_model(rated.run).towers[0].head
    assert isinstance(head, LogisticHead)
    assert bundle.read(rated.folder).score == Score("sigmoid", float(head.bias.detach()))
