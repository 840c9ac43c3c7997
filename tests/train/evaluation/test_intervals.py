"""Intervals draw whole clusters, and cover the truth as often as they say."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.people import data_of_people
from twinspire.train.data.training_data import Pairs
from twinspire.train.evaluation.intervals import (
    Clusters,
    Interval,
    clusters_of,
    interval,
    pair_clusters_of,
    within_standard_error,
)

Floats = npt.NDArray[np.float64]
MEAN, CORRELATION = 0.7, 0.3  # of hits, and between two queries of one cluster


def clustered(count: int, random: np.random.Generator, unequal: bool) -> tuple[Floats, Clusters]:
    """Hits (0 or 1) of queries in `count` clusters, by the beta-binomial distribution."""
    sizes = np.maximum(1, random.lognormal(1.5, 1, count).astype(int)) if unequal else np.full(count, 8)
    of = np.repeat(np.arange(count), sizes)
    strength = 1 / CORRELATION - 1
    rates = random.beta(MEAN * strength, (1 - MEAN) * strength, count)
    return (random.random(len(of)) < rates[of]).astype(np.float64), Clusters(of, "modules")


@pytest.mark.parametrize(("count", "unequal"), [(20, False), (20, True)])
def test_95_of_100_intervals_cover_the_truth_by_clusters_and_far_fewer_by_single_queries(
    count: int, unequal: bool
) -> None:
    random = np.random.default_rng(0)
    covered = np.zeros(2)
    for n in range(400):
        values, clusters = clustered(count, random, unequal)
        for place, drawn in enumerate((clusters, Clusters.single(len(values)))):
            found = interval(values, drawn, seed=n)
            covered[place] += found.low <= MEAN <= found.high
    by_clusters, by_queries = covered / 400
    assert 0.92 <= by_clusters <= 0.97
    assert by_queries < 0.8


def test_the_interval_of_single_queries_is_that_of_the_central_limit_theorem() -> None:
    values = np.random.default_rng(1).random(1600) ** 2
    for count in (100, 400, 1600):
        found = interval(values[:count], Clusters.single(count))
        assert found.low < found.mean == pytest.approx(values[:count].mean())
        assert found.high - found.low == pytest.approx(
            2 * 1.96 * values[:count].std() / np.sqrt(count), rel=0.1
        )
    assert interval(np.full(50, 0.25), Clusters.single(50)) == Interval(0.25, 0.25, 0.25)


def test_a_difference_is_that_of_the_same_queries() -> None:
    random = np.random.default_rng(0)
    other = random.random(200)
    one = other + random.normal(0.1, 0.01, 200)
    found = interval(one, Clusters.single(200), other)
    assert found.mean == pytest.approx(one.mean() - other.mean())
    assert 0.09 < found.low < found.mean < found.high < 0.11
    assert found.text("200 users").endswith(", 95 % interval, 200 users drawn)")


def test_one_cluster_says_nothing_and_two_say_little() -> None:
    values = np.array([0.2, 0.4, 0.9])
    assert interval(values[:1], Clusters.single(1)) == Interval(0.2, 0.0, 1.0)
    alone = interval(values[:1], Clusters.single(1), values[1:2])
    assert (alone.low, alone.high) == (-1.0, 1.0)
    found = interval(values, Clusters(np.array([0, 0, 1]), "modules"))
    assert (found.low, found.high) == (0.0, 1.0)
    one_module = Clusters.by(np.array([7, 7, 7]), 3, "modules")
    assert str(one_module) == "1 modules"
    found = interval(values, one_module)
    assert (found.low, found.high) == (0.0, 1.0)
    curve = {0.3: values, 0.5: values - 0.2}
    assert within_standard_error(curve, one_module) == [0.3, 0.5]


def test_clusters_are_users_of_events_and_groups_of_other_pairs() -> None:
    data = data_of_people([[0, 1, 2, 3], [1, 0, 3, 2]], 8)
    test = data.parts["test"]
    log = replace(data, parts={"test": replace(test, user=np.array([3, 3]))})
    assert (
        str(clusters_of(replace(log, parts={"test": replace(test, user=np.array([3, 4]))}), "test"))
        == "2 users"
    )
    ones = np.ones(5, np.float32)
    group = np.array([5, 5, 8, 6, 6])
    pairs = Pairs(np.array([3, 1, 1, 0, 4]), np.arange(5), ones, group=group)
    docs = replace(data, parts={"test": pairs}, histories=None, unit="modules")
    found = clusters_of(docs, "test")  # of queries 0, 1, 3, 4
    assert (found.of.tolist(), str(found)) == ([1, 0, 0, 1], "2 modules")
    assert pair_clusters_of(docs, "test").of.tolist() == [0, 0, 2, 1, 1]
    unknown = replace(docs, parts={"test": replace(pairs, group=None)})
    assert str(clusters_of(unknown, "test")) == "4 queries"
    assert str(pair_clusters_of(unknown, "test")) == "5 pairs"


def test_settings_within_a_standard_error_of_the_best_are_named() -> None:
    curve = {
        1.0: np.array([0.0, 1.0, 0.0, 0.0]),  # less by 1/2, with a standard error of .29
        2.0: np.array([1.0, 1.0, 0.0, 1.0]),
        4.0: np.array([1.0, 1.0, 0.5, 0.0]),  # less by 1/8, with a standard error of .31
    }
    assert within_standard_error(curve, Clusters.single(4)) == [2.0, 4.0]
    one_query = {"usual": np.zeros(40), "other": np.eye(40)[3]}  # which is chance
    assert within_standard_error(one_query, Clusters.single(40)) == ["usual", "other"]
    # Four equal queries of each user say no more than one, and as single queries too much.
    repeated = {value: np.repeat(each, 4) for value, each in curve.items()}
    users = Clusters(np.repeat(np.arange(4), 4), "users")
    assert within_standard_error(repeated, users) == [2.0, 4.0]
    assert within_standard_error({**repeated, 4.0: repeated[1.0]}, users) == [2.0]
    worse = {1.0: np.array([0.0, 1.0, 0.5, 1.0]), 2.0: curve[2.0] + 0.1}
    assert within_standard_error({k: np.repeat(v, 9) for k, v in worse.items()}, Clusters.single(36)) == [2.0]
