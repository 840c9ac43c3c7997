"""What the tuner chooses: the least that meets the configuration, and no graph where none is needed."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from export import index
from export.index.account import Account, why
from export.index.growth import Growth, cost_at
from export.index.making import first_that_reaches
from export.index.rivals import Rivals, compare
from export.index.sweep import Swept, choose, grid, past_the_best
from protos.bundle import Score
from train.config.index import IndexConfig
from train.plots import save

COSINE = Score("cosine")
GRAPH = IndexConfig(sample=1000, search="graph", threads=1)


def clustered(count: int, dimension: int = 32, clusters: int = 60, seed: int = 0) -> index.Vectors:
    """Unit vectors around centres that are the same for every seed."""
    centres = np.random.default_rng(99).standard_normal((clusters, dimension))
    random = np.random.default_rng(seed)
    vectors = centres[random.integers(clusters, size=count)] + 0.7 * random.standard_normal(
        (count, dimension)
    )
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


ITEMS, ASKED, UNSEEN = clustered(6000), clustered(300, seed=1), clustered(600, seed=2)


@pytest.fixture(scope="module")
def tuned() -> index.Made:
    return index.make(ITEMS, ASKED, GRAPH, COSINE, Console(quiet=True))


def test_the_target_is_met_on_queries_that_were_not_chosen_on(tuned: index.Made) -> None:
    assert index.recall_as_served(tuned, ITEMS, UNSEEN, GRAPH.k) >= GRAPH.recall_target
    assert not tuned.parameters.exact
    found = index.approximate(tuned.graph, UNSEEN, 10, tuned.parameters.ef_search)
    assert index.recalls(found, ITEMS, UNSEEN, 10).mean() >= GRAPH.recall_target
    assert (tuned.graph.M, tuned.graph.ef_construction) == (
        tuned.parameters.m,
        tuned.parameters.ef_construction,
    )


def test_the_report_says_what_was_tried_and_why(tuned: index.Made) -> None:
    report = json.loads(json.dumps(tuned.report, allow_nan=False))
    own, tried = report["chosen"], [(each["m"], each["ef_construction"]) for each in report["grid"]]
    assert len(tried) > 1
    assert tried == list(index.GRID[: len(tried)])
    assert (own["m"], own["ef_construction"]) in tried
    assert (
        f"M {own['m']} and ef_construction {own['ef_construction']} reach 0.98 at least cost" in report["why"]
    )
    assert f"ef_search {report['ef_search']} reaches 0.98: recall@10 0.9" in report["why"]
    assert (report["items"], report["sample"], report["reached"]) == (6000, 1000, True)
    assert {*report["exact_us"]} == {*report["graph_us"]} == {"1", "32"}
    assert min(*report["exact_us"].values(), *report["graph_us"].values(), report["build_s"]) > 0
    sizes = {each["m"]: each["bytes_per_item"] for each in report["grid"]}
    assert all(
        8 * m < size < 8 * m + 40 for m, size in sizes.items()
    )  # 2 M links of 4 bytes, and little more


def test_the_frontier_is_drawn(tuned: index.Made, tmp_path: Any) -> None:
    sweep, built = tuned.figure.axes
    assert len(sweep.lines) == len(tuned.report["grid"]) + 1  # and the target
    (label,) = (text for text in built.texts if text.get_text() == f"ef {tuned.parameters.ef_search}")
    assert label.get_fontweight() == "bold"
    assert save(tuned.figure, tmp_path / "index.png").stat().st_size > 10_000


@pytest.mark.parametrize("count", [1, 9, 60])
def test_a_tiny_catalogue_is_searched_exactly(count: int, console: Console) -> None:
    made = index.make(ITEMS[:count], ASKED, IndexConfig(), COSINE, console)
    assert made.parameters.exact
    assert made.report["reached"]
    assert made.report["grid"] == []
    assert index.recall_as_served(made, ITEMS[:count], UNSEEN, 10) == 1
    assert "every search is exact" in made.report["why"]
    assert len(made.figure.axes) == 1


def test_a_large_catalogue_is_searched_in_the_graph(console: Console) -> None:
    items = clustered(40_000, 16)
    config = IndexConfig(m=6, ef_construction=20, recall_target=0.5)
    made = index.make(items, ASKED[:, :16], config, COSINE, console)
    assert made.report["exact_us"]["1"] > made.report["graph_us"]["1"]
    assert not made.parameters.exact
    assert "as configured" in made.report["why"]


@pytest.mark.parametrize("search", ["graph", "exact"])
def test_what_is_configured_is_not_measured_away(search: Any, console: Console) -> None:
    made = index.make(ITEMS[:60], ASKED, IndexConfig(search=search, threads=1), COSINE, console)
    assert made.parameters.exact == (search == "exact")


def test_where_no_graph_reaches_the_target_all_searches_are_exact(console: Console) -> None:
    config = IndexConfig(m=4, ef_construction=6, recall_target=1.0, threads=1)
    made = index.make(ITEMS[:2500], ASKED, config, COSINE, console)
    assert made.parameters.exact
    assert index.recall_as_served(made, ITEMS[:2500], UNSEEN, 10) == 1
    stubborn = index.make(ITEMS[:2500], ASKED, replace(config, search="graph"), COSINE, console)
    assert not stubborn.report["reached"]
    assert "does not surely reach 1.0" in stubborn.report["why"]


@pytest.mark.parametrize("weak", [(2, 3), (4, 6)])  # the first is torn, too
def test_a_graph_that_falls_short_on_all_items_gives_way_to_a_denser_one(weak: tuple[int, int]) -> None:
    told = Console(file=io.StringIO())
    built = first_that_reaches([weak, (16, 100), (32, 200)], ITEMS, ASKED, GRAPH, COSINE, told)
    assert (built.shape, built.graph.M, built.tuned.reached) == ((16, 100), 16, True)
    assert f"M {weak[0]} and ef_construction {weak[1]} do not reach 0.98" in told.file.getvalue()  # type: ignore[attr-defined]
    parameters = replace(index.parameters(GRAPH, built.tuned.ef_search), m=16, ef_construction=100)
    rivals = Rivals({1: 90.0}, {1: 9.0})
    swept_ = [swept(weak[0], 5)]
    account = Account(6000, GRAPH, swept_, weak, built.tuned, rivals, parameters, built.seconds)
    said = (
        f"M 16 and ef_construction 100, because M {weak[0]} and ef_construction {weak[1]}, the cheapest of 1"
    )
    assert why(account).startswith(said)


def test_a_budget_is_kept_and_filled(console: Console) -> None:
    pinned = replace(GRAPH, m=8, ef_construction=40, sample=20_000)
    graph = index.build(ITEMS, pinned)
    curve = index.afford(graph, ITEMS, ASKED, pinned, budget=1e9).curve
    assert curve[-1]["recall"] == 1  # or all of the ladder
    budget = (curve[2]["us_per_query"] + curve[-1]["us_per_query"]) / 2
    made = index.make(ITEMS, ASKED, replace(pinned, latency_budget_us=budget), COSINE, console)
    times = {point["ef"]: point["us_per_query"] for point in made.report["curve"]}
    assert times[made.parameters.ef_search] <= budget
    assert all(time > budget for ef, time in times.items() if ef > made.parameters.ef_search)
    assert made.report["budget_us"] == budget


def test_a_budget_that_nothing_keeps_is_said_to_be_broken(console: Console) -> None:
    config = replace(GRAPH, latency_budget_us=1e-3, recall_target=1.0)
    made = index.make(ITEMS[:1500], ASKED, config, COSINE, console)
    assert made.parameters.ef_search == 2 * config.k  # no narrower search is served
    assert not made.report["reached"]
    assert "is the narrowest, yet not within 0.001 us" in made.report["why"]
    assert "not surely the 1.0 that was asked for" in made.report["why"]


def test_what_is_set_is_kept(console: Console) -> None:
    config = replace(GRAPH, m=12)
    assert grid(config) == [(12, 100), (12, 200), (12, 400)]
    made = index.make(ITEMS[:2000], ASKED, config, COSINE, console)
    assert (made.parameters.m, made.graph.M) == (12, 12)
    assert grid(IndexConfig(m=12, ef_construction=77)) == [(12, 77)]


def test_copies_meet_the_target_too(console: Console) -> None:
    items = np.concatenate(
        [np.repeat(ITEMS[:1], 900, axis=0), np.repeat(ITEMS[:20], 30, axis=0), ITEMS[:1500]]
    )
    made = index.make(items, ASKED, GRAPH, COSINE, console)
    assert made.report["reached"]
    for queries in (UNSEEN, ITEMS[:20]):
        assert index.recall_as_served(made, items, queries, 10) >= GRAPH.recall_target


def swept(
    m: int, cost: float | None, size: float = 0, curve: Sequence[Any] = (), build_s: float = 1
) -> Swept:
    return Swept(m, 100, build_s, size or 8.0 * m, curve, cost, cost)


def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"ef": 10, "us_per_query": us, "recall": recall, "standard_error": 0} for us, recall in points]


def test_the_least_cost_is_chosen_and_between_equals_the_smaller() -> None:
    config = IndexConfig()
    assert choose([swept(8, 200), swept(16, 100), swept(32, 150)], config).m == 16
    assert choose([swept(8, 104), swept(16, 100), swept(32, 99)], config).m == 8
    assert choose([swept(8, None), swept(16, 100), swept(32, 99)], config).m == 16
    even = [swept(16, 101, build_s=3), replace(swept(16, 99, build_s=5), ef_construction=400)]
    assert choose(even, config).ef_construction == 100
    none = [swept(8, None, curve=curve((9, 0.8))), swept(16, None, curve=curve((9, 0.9))), swept(32, None)]
    assert choose(none, config).m == 16


def test_a_budget_chooses_what_finds_most_within_it() -> None:
    sparse, dense = curve((10, 0.7), (20, 0.8), (40, 0.9)), curve((15, 0.85), (30, 0.95))
    for budget, m, recall in ((25, 16, 0.92), (12, 8, 0.73), (5, 8, 0.0)):
        found = [
            replace(
                swept(m, None, curve=each), expected_recall=Growth(each, [], 1, 0.98).recall_within(budget)
            )
            for m, each in ((8, sparse), (16, dense))
        ]
        best = choose(found, IndexConfig(latency_budget_us=budget))
        assert best.m == m
        assert best.expected_recall == pytest.approx(recall, abs=0.02)


def test_a_cost_lies_between_the_widths_around_the_target() -> None:
    points = curve((10, 0.9), (20, 0.96), (80, 0.99), (100, 1.0))
    assert cost_at(points, 0.98) == pytest.approx(40)  # half as much is missed at each doubling
    assert cost_at(points, 0.96) == 20
    assert cost_at(points, 0.8) == 10
    assert 80 < (cost_at(points, 0.995) or 0) < 100
    assert cost_at(points, 1.0) == pytest.approx(100)
    assert cost_at(points[:2], 0.98) is None


def test_what_grows_faster_costs_more_on_all_items() -> None:
    quarter, sample = curve((5, 0.9), (10, 0.99)), curve((10, 0.9), (20, 0.99))
    assert Growth(sample, quarter, 4, 0.9).cost_us() == pytest.approx(20)  # doubled up to here, and again
    assert Growth(sample, quarter, 2, 0.9).cost_us() == pytest.approx(10 * 2**0.5)
    assert Growth(sample, quarter, 4, 0.995).factor == pytest.approx(2)  # at the highest that both reach
    assert Growth(sample, quarter, 4, 0.995).cost_us() is None
    for alone in (
        Growth(sample, [], 4, 0.9),
        Growth(sample, sample, 4, 0.9),
        Growth(quarter, sample, 4, 0.9),
    ):
        assert alone.factor == 1
    assert Growth([], [], 4, 0.9).cost_us() is None
    assert Growth(sample, [], 1, 0.9).recall_within(20) == pytest.approx(0.99, abs=0.002)
    assert Growth(sample, quarter, 4, 0.9).recall_within(20) == pytest.approx(0.9, abs=0.02)
    assert Growth(sample, quarter, 4, 0.9).recall_within(19) == 0
    sparse, dense = replace(swept(8, 9), expected_us=30), replace(swept(16, 10), expected_us=20)
    assert choose([sparse, dense], IndexConfig()).m == 16


def test_denser_graphs_are_left_out_once_they_are_clearly_dearer() -> None:
    config = IndexConfig()
    assert not past_the_best([swept(8, None)], config)
    assert not past_the_best([swept(8, 100), swept(16, 110), swept(32, 140)], config)
    assert not past_the_best([swept(8, 100), swept(16, None), swept(32, None)], config)
    assert not past_the_best([swept(8, None), swept(16, 100), swept(32, 140)], config)
    dearer = [swept(8, 100), swept(16, 140), swept(32, 150)]
    assert past_the_best(dearer, config)
    assert not past_the_best(dearer, IndexConfig(latency_budget_us=1))


def test_exact_search_is_chosen_by_what_one_query_waits() -> None:
    assert Rivals({1: 20.0, 32: 9.0}, {1: 20.0, 32: 5.0}).exact_is_no_slower
    assert not Rivals({1: 21.0, 32: 2.0}, {1: 20.0, 32: 5.0}).exact_is_no_slower
    graph = index.build(ITEMS[:500], GRAPH)
    found = compare(graph, ITEMS[:500], ASKED, 10, 10)
    assert {*found.exact_us} == {*found.graph_us} == {1, 32}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"m": 1}, "m: expected at least 2, got 1"),
        ({"ef_construction": -1}, "ef_construction: expected at least 1, got -1"),
        ({"recall_target": 1.1}, "recall_target: expected above 0 and at most 1, got 1.1"),
        ({"recall_target": 0.0}, "recall_target: expected above 0 and at most 1"),
        ({"latency_budget_us": 0.0}, "latency_budget_us: expected a number above 0, got 0"),
        ({"sample": 10}, "sample: expected at least 1000, got 10"),
        ({"m": 16, "ef_construction": 200, "sample": 5000}, "sample: goes with m or ef_construction left"),
        ({"search": "exact", "latency_budget_us": 9.0}, 'latency_budget_us: goes with search = "auto" or'),
        ({"search": "exact", "m": 16}, 'm: goes with search = "auto" or "graph"; leave it out'),
        ({"search": "exact", "sample": 5000}, 'sample: goes with search = "auto" or "graph"'),
    ],
)
def test_what_would_do_nothing_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IndexConfig(**wrong)
