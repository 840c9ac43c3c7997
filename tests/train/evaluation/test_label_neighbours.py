"""Item-kNN of residuals against a loop, and where it is measured."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.click_logs import CLICKS_TOML, write_clicks
from tests.helpers.stdlib import experiment_at
from twinspire.train.config import Experiment
from twinspire.train.config.baselines import BaselinesConfig
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.evaluation import label_baselines as module
from twinspire.train.evaluation.label_baselines import (
    ResidualNeighbours,
    item_shares,
    label_baselines,
    user_item,
)
from twinspire.train.evaluation.labelled_metrics import pair_losses

READ, TASTES = 5, 4
Cosines = dict[tuple[int, int], tuple[float, int]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, TrainingData]:
    """Users with one of four tastes click items of it, and are shown all; the towers read five events."""
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder, users=60, items=40, events=3000)
    header, *lines = (folder / "clicks.csv").read_text().splitlines()
    draw, rows = np.random.default_rng(0), [header]
    for line in lines:
        user, item, at, device, _ = line.split(",")
        likely = 0.8 if int(user[1:]) % TASTES == int(item[1:]) % TASTES else 0.2
        rows.append(f"{user},{item},{at},{device},{int(draw.random() < likely)}")
    (folder / "clicks.csv").write_text("\n".join(rows) + "\n")
    toml = CLICKS_TOML.replace('kind = "history"', f'kind = "history"\nmax_length = {READ}')
    toml = toml.replace('kind = "negative_history"', f'kind = "negative_history"\nmax_length = {READ}')
    (folder / "clicks.toml").write_text(toml)
    experiment, dataset = experiment_at(folder / "clicks.toml")
    return experiment, training_data_of(dataset, experiment.query, experiment.item)


def cosines(data: TrainingData, shares: npt.NDArray[np.float64], smoothing: float) -> Cosines:
    """(item, item) -> cosine of their residuals over the users of both, and how many these are."""
    train = data.parts["train"]
    assert train.user is not None
    residuals = train.is_positive - shares[train.item]
    of_user: dict[int, dict[int, float]] = {}
    for user in np.unique(train.user):
        own = train.user == user
        mean = residuals[own].sum() / (own.sum() + smoothing)
        sums = of_user.setdefault(int(user), {})
        for item, value in zip(train.item[own].tolist(), residuals[own], strict=True):
            sums[item] = sums.get(item, 0.0) + float(value - mean)
    found: Cosines = {}
    for one in range(data.item_count):
        for other in range(data.item_count):
            both = np.array([[r[one], r[other]] for r in of_user.values() if one in r and other in r])
            if len(both):
                norm = np.sqrt((both**2).sum(axis=0).prod())
                found[one, other] = float((both[:, 0] * both[:, 1]).sum() / norm), len(both)
    return found


@pytest.mark.parametrize(("events", "neighbours"), [("as the towers", 3), ("all", 200)])
def test_the_sums_are_those_of_a_loop_over_the_events_before_each_pair(
    made: tuple[Experiment, TrainingData], events: str, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, data = made
    monkeypatch.setattr(module, "_BLOCK", 7)
    base = user_item(experiment.query, data)
    shares, smoothing = item_shares(data, base.settings["item_smoothing"]), base.settings["smoothing"]
    similar = cosines(data, shares, smoothing)
    row_of = {item_id: row for row, item_id in enumerate(data.item_ids)}
    pairs = data.parts["test"].where(np.arange(len(data.parts["test"])) < 20)
    expected = []
    for query, item in zip(pairs.query, pairs.item.tolist(), strict=True):
        known: list[tuple[int, float]] = []
        for name, label in (("history", 1.0), ("skipped", 0.0)):
            values = data.queries[name]
            rows = [row_of[each] for each in values[query]]  # as the towers read it
            rows = rows if events == "as the towers" else values.rows(query).tolist()  # type: ignore[attr-defined]
            known += [(row, label - shares[row]) for row in rows]
        assert len(known) <= READ or events == "all"
        mean = sum(value for _, value in known) / (len(known) + smoothing)
        terms = []
        for row, value in known:
            cosine, users = similar.get((item, row), (0.0, 0))
            terms.append((cosine * users / (users + 30), value - mean))
        terms.sort(key=lambda term: -abs(term[0]))
        expected.append(sum(weight * value for weight, value in terms[:neighbours]))
    found = ResidualNeighbours(experiment.query, data, base).sums(pairs, events, 30.0, neighbours)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_is_better_than_means_where_tastes_differ(made: tuple[Experiment, TrainingData]) -> None:
    experiment, data = made
    named = replace(experiment, baselines=BaselinesConfig(run=("user_item", "user_item_knn")))
    found, test = label_baselines(named, data), data.parts["test"]
    losses = {
        name: float(pair_losses(test.is_positive, each.predict(test)).mean()) for name, each in found.items()
    }
    assert losses["user_item_knn"] < losses["user_item"] - 0.02
    assert found["user_item_knn"].settings["events"] == "all"  # five say little of a taste
