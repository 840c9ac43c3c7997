"""Bundles are measured in a process of their own; what they do to it is told, step by step."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.tiny import item_names, tiny_bundle, watched_bundle
from tests.helpers.tiny_towers import TinyTower
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.entry_points import BENCHMARK_STEP
from twinspire.protos.errors import MissingStage
from twinspire.protos.system.timing import PASS_TURN, PASS_WARM_UP, PASSES, SETTLING, median_of_passes
from twinspire.serving.benchmark.bundle_benchmark import recall
from twinspire.serving.retrieval.encoder import Encoder
from twinspire.serving.retrieval.query import example_query
from twinspire.serving.retrieval.retriever import Retriever

CODE = (
    "import sys\n"
    "for name in ('torch', 'mlflow', 'polars', 'grpc'): sys.modules[name] = None\n"  # importing one fails
    "from twinspire.serving.benchmark.bundle_benchmark import main\n"
    "main(sys.argv[1:])\n"
)


def prepared(request: Mapping[str, Any], folder: Path) -> tuple[list[str], dict[str, str]]:
    """`twinspire.serving.benchmark.bundle_benchmark` with a request: the command, and its environment."""
    (folder / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-c", CODE, str(folder / "request.json")]
    return command, {**os.environ, "OMP_NUM_THREADS": "1"}


def run(request: Mapping[str, Any], folder: Path) -> "subprocess.CompletedProcess[str]":
    """What `serving.benchmark.bundle_benchmark` does with a request, with the serving extra alone."""
    command, environment = prepared(request, folder)
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def measuring(**bundles: Path) -> dict[str, Any]:
    folders = {name: str(folder) for name, folder in bundles.items()}
    figures = {"k": 10, "threads": 1, "iterations": 100, "rounds": 2, "loads": 2}
    return {"task": "measure", "bundles": folders, **figures}


def steps(stderr: str) -> list[dict[str, str]]:
    return [
        json.loads(line.removeprefix(BENCHMARK_STEP))
        for line in stderr.splitlines()
        if line.startswith(BENCHMARK_STEP)
    ]


def sealed(parent: Path, name: str, content: Callable[[bytes], bytes]) -> Path:
    """A tiny bundle, one file of which is another, and which is sealed again."""
    folder = tiny_bundle(parent / "whole")

    def fill(draft: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and path.name != bundle.MANIFEST:
                target = draft / path.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
        (draft / name).write_bytes(content((draft / name).read_bytes()))

    return bundle.write(parent, bundle.read(folder), fill)


def test_two_bundles_are_measured_beside_each_other(plain: Path, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path, report='{"other": 1}\n')
    done = run(measuring(challenger=other, champion=plain), tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for side in ("challenger", "champion"):
        assert len(found["load_s"][side]) == 2
        assert min(found["load_s"][side]) > 0
        assert len(found["recall"][side]) == 20
        for what in ("query_tower", "retriever"):
            each = found["latency"][what][side]
            assert [len(each[name]) for name in ("p50_us", "p99_us")] == [2, 2]
            assert each["queries"] == 2 * PASS_TURN
            assert min(each["p50_us"]) > 0
            assert all(p50 <= p99 for p50, p99 in zip(each["p50_us"], each["p99_us"], strict=True))
    told = steps(done.stderr)
    assert [each["bundle"] for each in told[:6]] == ["challenger", "champion", *told_in_turn()]
    assert told[-1] == {"bundle": "", "step": "timing each retriever"}


def told_in_turn() -> list[str]:
    """Who loads when: the order turns round each time."""
    return ["challenger", "champion", "champion", "challenger"]


def test_recall_is_that_of_the_index_as_it_is_served(plain: Path, tmp_path: Path) -> None:
    retriever = Retriever.load(plain)
    assert recall(retriever, retriever.built, 5) == [1.0] * 20
    narrow = tiny_bundle(
        tmp_path,
        4000,
        index=IndexParameters(space="ip", m=8, ef_construction=64, ef_search=1, seed=0),
        examples=tuple({"text": name[:12]} for name in item_names(4100)[4000:]),
    )
    retriever = Retriever.load(narrow)
    found = recall(retriever, retriever.built, 1)
    vectors = np.load(narrow / bundle.VECTORS)
    encoder = Encoder(narrow, retriever.manifest)
    asked = encoder.vectors(encoder.arrays(list(retriever.manifest.examples)))
    best = (asked @ vectors.T).max(axis=1)
    answers = retriever.search([example_query(each) for each in retriever.manifest.examples], 1)
    scores = np.array([answer.hits[0].score for answer in answers])
    assert found == (scores >= best - 1e-5).astype(float).tolist()
    assert 0 in found


def test_what_is_popular_answers_without_an_index(watched: Path, tmp_path: Path) -> None:
    manifest = bundle.read(watched)
    blank = sum(not each["history"] and each["country"] is None for each in manifest.examples)
    assert 0 < blank < len(manifest.examples)
    retriever = Retriever.load(watched)
    assert len(recall(retriever, retriever.built, 5)) == len(manifest.examples) - blank
    alone = watched_bundle(tmp_path, examples=({"history": [], "country": None},))
    retriever = Retriever.load(alone)
    with pytest.raises(MissingStage, match="no example is answered by its index"):
        recall(retriever, retriever.built, 5)


def test_loading_is_timed_in_a_new_process(plain: Path, tmp_path: Path) -> None:
    done = run({"task": "load", "bundle": str(plain), "threads": 1}, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["load_s"] < found["start_s"]
    assert 0 < found["before_bytes"] < found["rss_bytes"]


def test_a_tower_that_does_not_load_is_told(plain: Path, tmp_path: Path) -> None:
    broken = sealed(tmp_path, bundle.QUERY_TOWER, lambda content: content[: len(content) // 2])
    done = run(measuring(challenger=broken, champion=plain), tmp_path)
    assert done.returncode == 1
    failed = json.loads(done.stdout)["failed"]
    assert (failed["bundle"], failed["step"]) == ("challenger", "loading")
    assert failed["error"].startswith(f"BundleDamaged: {broken / bundle.QUERY_TOWER}")


def test_who_killed_the_process_can_be_read_from_its_last_step(plain: Path, tmp_path: Path) -> None:
    command, environment = prepared(measuring(champion=plain, challenger=plain), tmp_path)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        said = ""
        for line in process.stderr:  # each step is told before it begins
            said += line
            if steps(line) == [{"bundle": "challenger", "step": "loading"}]:
                break
        process.kill()
        assert process.stdout.read() == ""
    assert process.returncode == -signal.SIGKILL
    assert steps(said)[-1] == {"bundle": "challenger", "step": "loading"}


def test_records_are_encoded_by_both_towers(plain: Path, tmp_path: Path) -> None:
    batches = [["a river"], ["winter", "the harbour at night"]]
    manifest = bundle.read(plain)
    expected = {}
    for side in ("query", "item"):
        encoder = Encoder(plain, manifest, side=side)
        arrays = [encoder.inputs.to_arrays({"text": texts}) for texts in batches]
        inputs: dict[str, Any] = {f"{n:06}.text": each["text"] for n, each in enumerate(arrays)}
        np.savez(tmp_path / f"{side}.npz", **inputs)
        expected[side] = [encoder.vectors(each) for each in arrays]
    done = run({"task": "encode", "bundle": str(plain), "arrays": str(tmp_path)}, tmp_path)
    assert done.returncode == 0, done.stderr
    for side, vectors in expected.items():
        with np.load(tmp_path / f"{side}-vectors.npz") as found:
            assert found.files == ["000000", "000001"]
            for name, each in zip(found.files, vectors, strict=True):
                np.testing.assert_array_equal(found[name], each)


def test_a_tower_that_fails_on_a_record_is_told(tmp_path: Path) -> None:
    narrow = tiny_bundle(tmp_path, query_tower=TinyTower(wraps=False))
    for side in ("query", "item"):
        np.savez(tmp_path / f"{side}.npz", **dict[str, Any]({"000000.text": np.array([[70_000]], np.int32)}))
    done = run({"task": "encode", "bundle": str(narrow), "arrays": str(tmp_path)}, tmp_path)
    failed = json.loads(done.stdout)["failed"]
    assert (failed["bundle"], failed["step"]) == ("query", "encoding records")


def test_all_take_turns_with_the_same_queries() -> None:
    called: list[tuple[str, int]] = []

    def calls(name: str) -> list[Callable[[], object]]:
        return [lambda n=n: called.append((name, n)) for n in range(40)]  # type: ignore[misc]

    rounds, queries = 2, 2 * PASS_TURN
    found = median_of_passes({"a": calls("a"), "b": calls("b")}, rounds, queries)
    assert [found[name].shape for name in ("a", "b")] == [(rounds, queries)] * 2
    timed = called[2 * PASS_WARM_UP :]
    turns = [timed[at : at + SETTLING + PASS_TURN] for at in range(0, len(timed), SETTLING + PASS_TURN)]
    assert all(len({name for name, _ in turn}) == 1 for turn in turns)
    order = [turn[0][0] for turn in turns]
    assert order == ["a", "b", "b", "a"] * (len(turns) // 4)
    for first, second in zip(turns[::2], turns[1::2], strict=True):
        assert [n for _, n in first] == [n for _, n in second]
    places = [turn[SETTLING][1] for turn in turns[::2]]
    assert places[: 2 * PASSES] == [0, 25] * PASSES  # each query comes back in every pass
    assert places[2 * PASSES :] == [10, 35] * PASSES
