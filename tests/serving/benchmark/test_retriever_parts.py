"""The retriever and its parts are timed on the same queries, where nothing but serving is there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.errors import MissingStage
from serving.benchmark.bundle_benchmark import RetrieverParts
from serving.retrieval.query import Query
from tests.helpers.tiny import watched_bundle
from tests.serving.benchmark.test_bundle_benchmark import run

PARTS = {"retriever", "session_run", "bare_search", "pair", "prepare", "encode", "nearest"}


def measuring(folder: Path) -> dict[str, Any]:
    effort = {"iterations": 40, "fewest": 12, "seconds": 0.0}
    return {"task": "retriever", "bundle": str(folder), "k": 10, "threads": 1, "batches": [1, 32], **effort}


def test_whole_and_parts_are_timed_turn_by_turn(plain: Path, tmp_path: Path) -> None:
    done = run(measuring(plain), tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["search"], found["threads"], found["k"]) == ("graph", 1, 10)
    assert found["queries"] > 200  # of 20 examples
    for clock in ("wall_us", "cpu_us"):
        assert {batch: parts.keys() for batch, parts in found[clock].items()} == {"1": PARTS, "32": PARTS}
        for batch, calls in (("1", 40), ("32", 12)):
            assert {np.array(turns).shape for turns in found[clock][batch].values()} == {(calls // 4, 4)}
            assert min(np.min(turns) for turns in found[clock][batch].values()) > 0


def test_the_parts_do_what_the_whole_does(plain: Path, full: Path, watched: Path) -> None:
    for folder in (plain, watched):
        bench = RetrieverParts(folder, 1, 10)
        contenders = bench.contenders(3)
        for n in (0, 1):
            answers: Any = contenders["retriever"][n]()
            pair: Any = contenders["pair"][n]()
            ids = [[bench.retriever.items.ids[row] for row in each[:10]] for each in pair[0]]
            assert ids == [[hit.id for hit in answer.hits] for answer in answers]
            vectors: Any = contenders["session_run"][n]()
            encoded: Any = contenders["encode"][n]()
            np.testing.assert_array_equal(
                vectors, encoded.vectors
            )  # equal bits: the same batch in one process
            apart: Any = contenders["bare_search"][n]()
            np.testing.assert_array_equal(apart[0], pair[0])
    queries = RetrieverParts(watched, 1, 10).queries
    assert len(queries) >= 4
    assert all(query.history for query in queries)  # without one the answer is what is popular


def test_where_the_service_compares_with_all_items_so_does_the_bare_part(plain: Path) -> None:
    bench = RetrieverParts(plain, 1, 60)
    contenders = bench.contenders(2)
    best: Any = contenders["pair"][0]()
    answers: Any = contenders["retriever"][0]()
    vectors: Any = contenders["session_run"][0]()
    assert bench.width is None
    assert best.shape == (2, 60)
    for vector, rows, answer in zip(vectors, best, answers, strict=True):
        scores = np.sort(bench.index.vectors(rows) @ vector)[::-1]  # several items may be as good as the last
        np.testing.assert_allclose(scores, [hit.score for hit in answer.hits], atol=1e-6)


def test_a_bundle_that_cannot_be_measured_is_told(watched: Path, tmp_path: Path) -> None:
    done = run(measuring(tmp_path), tmp_path)
    assert done.returncode == 1
    failed = json.loads(done.stdout)["failed"]
    assert (failed["bundle"], failed["step"]) == ("retriever", "loading")
    assert f"{tmp_path}/manifest.json: missing" in failed["error"]
    blank = watched_bundle(tmp_path, examples=({"history": [], "country": None},))
    with pytest.raises(MissingStage, match="no example queries to make others from"):
        RetrieverParts(blank, 1, 10)
    assert Query() not in RetrieverParts(watched, 1, 10).queries
