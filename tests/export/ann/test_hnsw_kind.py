"""An HNSW index has the smallest search width that reaches the target, or exact search."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twinspire.export import ann
from twinspire.export.ann.ef_search import choose_ef
from twinspire.export.ann.kinds import hnsw
from twinspire.protos.bundle import Score
from twinspire.protos.errors import BundleError, GateRefused, MissingStage
from twinspire.protos.nearest import coded_vectors
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.train.config.index import IndexConfig

COSINE = Score("cosine")
HNSW = ann.index_kind("hnsw")
GRAPH = IndexConfig(search="graph", threads=1)


def clustered(count: int, dimension: int = 32, clusters: int = 60, seed: int = 0) -> ann.Vectors:
    """Unit vectors around centres that are the same for every seed."""
    centres = np.random.default_rng(99).standard_normal((clusters, dimension))
    random = np.random.default_rng(seed)
    vectors = centres[random.integers(clusters, size=count)] + 0.7 * random.standard_normal(
        (count, dimension)
    )
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


ITEMS, ASKED, UNSEEN = clustered(6000), clustered(300, seed=1), clustered(600, seed=2)


def graph_of(tuned: ann.TunedIndex) -> CodedVectors:
    assert tuned.graph is not None
    return tuned.graph


@pytest.fixture(scope="module")
def tuned() -> ann.TunedIndex:
    return HNSW.tune(ITEMS, ASKED, GRAPH, COSINE)


def test_the_target_is_met_on_other_queries(tuned: ann.TunedIndex) -> None:
    assert ann.mean_recall(tuned, ITEMS, UNSEEN, GRAPH.k) >= GRAPH.recall_target
    assert not tuned.parameters.exact
    found = ann.approximate(graph_of(tuned), UNSEEN, 10, tuned.parameters.ef_search)
    assert ann.recalls(found, ITEMS, UNSEEN, 10).mean() >= GRAPH.recall_target
    assert graph_of(tuned).links.shape == (len(ITEMS), 64)
    assert (tuned.parameters.m, tuned.parameters.ef_construction) == (32, 400)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (GRAPH, [(32, 400), (64, 800)]),
        (replace(GRAPH, m=16, ef_construction=50), [(16, 50), (32, 100)]),
    ],
)
def test_a_graph_that_does_not_hold_together_is_built_denser(
    monkeypatch: pytest.MonkeyPatch, config: IndexConfig, sizes: list[tuple[int, int]]
) -> None:
    tried: list[int] = []
    choose_ef = ann.choose_ef

    def once_disconnected(graph: CodedVectors, *arguments: Any) -> Any:
        tried.append(graph.links.shape[1] // 2)
        if len(tried) == 1:
            raise GateRefused("index: a search reaches fewer than 10 items; raise index.m")
        return choose_ef(graph, *arguments)

    monkeypatch.setattr(hnsw, "choose_ef", once_disconnected)
    found = HNSW.tune(ITEMS[:1000], ASKED, config, COSINE)
    assert tried == [m for m, _ in sizes]
    chosen = found.parameters
    assert (chosen.m, chosen.ef_construction) == sizes[1]


def test_the_report_has_measurements_and_reason(tuned: ann.TunedIndex) -> None:
    report = json.loads(json.dumps(tuned.report, allow_nan=False))
    assert report["chosen"] == {"m": 32, "ef_construction": 400, "exact": False}
    assert report["why"].startswith("M 32 and ef_construction 400; ef_search ")
    assert f"ef_search {report['ef_search']} reaches 0.98: recall@10 " in report["why"]
    assert (report["items"], report["reached"]) == (6000, True)
    assert report["build_s"] > 0 and all(point["us_per_query"] > 0 for point in report["curve"])
    assert report["bytes_per_item"] == 8 * 32  # 2 M links of 4 bytes


@pytest.mark.parametrize("count", [1, 9, 60])
def test_a_tiny_catalogue_is_searched_exactly(count: int) -> None:
    made = HNSW.tune(ITEMS[:count], ASKED, IndexConfig(), COSINE)
    assert made.parameters.exact
    assert made.report["reached"]
    assert made.graph is None  # no search would read it
    assert ann.mean_recall(made, ITEMS[:count], UNSEEN, 10) == 1
    assert "every search is exact" in made.report["why"]


def test_the_size_alone_decides_whether_a_small_catalogue_is_searched_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = clustered(4004, 64)
    made = HNSW.tune(items, clustered(50, 64, seed=1), IndexConfig(threads=1), COSINE)
    assert made.parameters.exact
    assert "at most 2,097,152 coordinates (items x dimensions)" in made.report["why"]
    assert ann.mean_recall(made, items, clustered(50, 64, seed=2), 10) == 1
    monkeypatch.setattr(
        "twinspire.export.ann.kinds.hnsw.EXACT_SIZE", items.size - 1
    )  # then the graph is searched
    pinned = IndexConfig(m=16, ef_construction=100, threads=1)
    assert not HNSW.tune(items, clustered(50, 64, seed=1), pinned, COSINE).parameters.exact


def test_a_large_catalogue_is_searched_in_the_graph() -> None:
    items = clustered(40_000, 64)  # more than EXACT_SIZE coordinates
    config = IndexConfig(m=6, ef_construction=20, recall_target=0.5)
    made = HNSW.tune(items, clustered(300, 64, seed=1), config, COSINE)
    assert not made.parameters.exact
    assert (made.parameters.m, graph_of(made).links.shape[1]) == (6, 12)


@pytest.mark.parametrize("search", ["graph", "exact"])
def test_configured_search_is_kept_whatever_is_measured(search: Any) -> None:
    made = HNSW.tune(ITEMS[:60], ASKED, IndexConfig(search=search, threads=1), COSINE)
    assert made.parameters.exact == (search == "exact")


@pytest.mark.exhaustive
def test_searches_are_exact_if_no_graph_reaches_the_target() -> None:
    config = IndexConfig(m=4, ef_construction=6, recall_target=1.0, threads=1)
    made = HNSW.tune(ITEMS[:2500], ASKED, config, COSINE)
    assert made.parameters.exact
    assert ann.mean_recall(made, ITEMS[:2500], UNSEEN, 10) == 1
    stubborn = HNSW.tune(ITEMS[:2500], ASKED, replace(config, search="graph"), COSINE)
    assert not stubborn.report["reached"]
    assert "does not surely reach 1.0" in stubborn.report["why"]


def test_the_target_is_met_with_duplicates() -> None:
    items = np.concatenate(
        [np.repeat(ITEMS[:1], 900, axis=0), np.repeat(ITEMS[:20], 30, axis=0), ITEMS[:1500]]
    )
    made = HNSW.tune(items, ASKED, GRAPH, COSINE)
    assert made.report["reached"]
    for queries in (UNSEEN, ITEMS[:20]):
        assert ann.mean_recall(made, items, queries, 10) >= GRAPH.recall_target


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"m": 1}, "m: expected at least 2, got 1"),
        ({"ef_construction": -1}, "ef_construction: expected at least 1, got -1"),
        ({"recall_target": 1.1}, "recall_target: expected above 0 and at most 1, got 1.1"),
        ({"recall_target": 0.0}, "recall_target: expected above 0 and at most 1"),
        ({"search": "exact", "m": 16}, 'm: goes with search = "auto" or "graph"; leave it out'),
        ({"search": "exact", "ef_construction": 90}, 'ef_construction: goes with search = "auto" or "graph"'),
    ],
)
def test_a_wrong_or_unused_setting_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IndexConfig(**wrong)


def test_no_width_is_chosen_where_graphs_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = CodedVectors(clustered(500), links=np.zeros((500, 1), np.uint32))
    monkeypatch.setattr(coded_vectors, "compiled", None)
    with pytest.raises(MissingStage, match=r"the search of graphs is not compiled here.*search = .exact"):
        choose_ef(graph, clustered(10), IndexConfig())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        BundleError,
        match=r"manifest\.json: index\.kind: expected one of hnsw, milvus, pgvector, got 'remote'",
    ):
        ann.index_kind("remote")


def test_exact_search_needs_no_graph(tmp_path: Path) -> None:
    config = IndexConfig(search="exact")
    tuned = HNSW.tune(ITEMS, ASKED, config, COSINE)
    assert tuned.graph is None
    assert tuned.parameters.kind == "exact"
    np.testing.assert_array_equal(tuned.search(ASKED, 7), ann.exact(ASKED, ITEMS, 7))
    parameters, report = ann.write_index(ITEMS, (ASKED, UNSEEN), config, COSINE, tmp_path)
    assert parameters == tuned.parameters and report[f"ann_recall_at_{config.k}"] == 1
    assert not [*tmp_path.iterdir()]
