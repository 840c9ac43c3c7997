"""The retriever and its bare parts are timed on the same queries, where nothing but serving is there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.errors import MissingStage
from serving.parts import Bench, main
from serving.query import Query
from tests.serving.conftest import ROOT
from tests.tiny import watched_bundle

CODE = (
    "import sys\n"
    "for name in ('torch', 'mlflow', 'polars', 'grpc'): sys.modules[name] = None\n"  # importing one fails
    "from serving.parts import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)
PARTS = {"retriever", "session_run", "bare_search", "pair", "prepare", "encode", "nearest"}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_whole_and_parts_are_timed_turn_by_turn(plain: Path) -> None:
    done = run("--bundle", str(plain), "--iterations", "40", "--fewest", "12", "--seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["search"], found["threads"], found["k"]) == ("graph", 1, 10)
    assert found["queries"] > 200  # of 20 examples
    for clock in ("wall_us", "cpu_us"):
        assert {batch: parts.keys() for batch, parts in found[clock].items()} == {"1": PARTS, "32": PARTS}
        for batch, calls in (("1", 40), ("32", 12)):
            assert {np.array(turns).shape for turns in found[clock][batch].values()} == {(calls // 4, 4)}
            assert min(np.min(turns) for turns in found[clock][batch].values()) > 0


def test_loading_is_timed_in_a_fresh_process(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("--bundle", str(plain), "--load", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["load_s"] < found["start_s"]
    assert main(["--bundle", str(plain), "--load"]) == 0
    assert capsys.readouterr().out.startswith("loaded in ")


def test_people_are_told_the_medians(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(plain), "--batches", "2", "--iterations", "4", "--fewest", "4"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("batch 2: the retriever takes ")
    assert all(f"\n  {name} " in told for name in PARTS)


def test_the_parts_do_what_the_whole_does(plain: Path, full: Path, watched: Path) -> None:
    for folder in (plain, watched):
        bench = Bench(folder, 1, 10)
        contenders = bench.contenders(3)
        for n in (0, 1):
            answers: Any = contenders["retriever"][n]()
            pair: Any = contenders["pair"][n]()
            ids = [[bench.retriever.catalogue.ids[row] for row in each[:10]] for each in pair[0]]
            assert ids == [[hit.id for hit in answer.hits] for answer in answers]
            vectors: Any = contenders["session_run"][n]()
            encoded: Any = contenders["encode"][n]()
            np.testing.assert_array_equal(
                vectors, encoded.vectors
            )  # equal bits: the same batch in one process
            apart: Any = contenders["bare_search"][n]()
            np.testing.assert_array_equal(apart[0], pair[0])
    queries = Bench(watched, 1, 10).queries
    assert len(queries) >= 4
    assert all(query.history for query in queries)  # without one the answer is what is popular


def test_where_the_service_compares_with_all_items_so_does_the_bare_part(plain: Path) -> None:
    bench = Bench(plain, 1, 60)
    contenders = bench.contenders(2)
    best: Any = contenders["pair"][0]()
    answers: Any = contenders["retriever"][0]()
    vectors: Any = contenders["session_run"][0]()
    assert bench.width is None
    assert best.shape == (2, 60)
    for vector, rows, answer in zip(vectors, best, answers, strict=True):
        scores = np.sort(bench.index.vectors[rows] @ vector)[::-1]  # several items may be as good as the last
        np.testing.assert_allclose(scores, [hit.score for hit in answer.hits], atol=1e-6)


def test_a_bundle_that_cannot_be_measured_is_told(watched: Path, tmp_path: Path) -> None:
    done = run("--bundle", str(tmp_path), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path}/manifest.json: missing")
    blank = watched_bundle(tmp_path, examples=({"history": [], "country": None},))
    with pytest.raises(MissingStage, match="no example queries to make others from"):
        Bench(blank, 1, 10)
    assert Query() not in Bench(watched, 1, 10).queries
