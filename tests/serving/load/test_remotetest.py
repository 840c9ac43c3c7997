"""`make remotetest`: it sees answers of another bundle, and its commands end in a report."""

import json
import os
import subprocess
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.answers import hits_of
from tests.helpers.milvus import needs_server
from tests.helpers.postgres import needs_pgvector
from tests.helpers.shop_logs import write_shop
from tests.helpers.tiny import item_names, tiny_bundle
from tests.helpers.warm import WarmPython
from tests.load import measure_remote
from tests.load.__main__ import main
from tests.load.measure_remote import Items
from twinspire.protos.bundle import MILVUS, PGVECTOR
from twinspire.protos.vector_databases.database import database_of, uri_variable
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.config import read_experiment

# What the commands do beyond towers, vectors and collections, which the test does not look at.
LESS = """[baselines]
run = ["popularity"]

[precision]
query = "fp32"
item = "fp32"

"""


def write_small_shop(folder: Path) -> Path:
    """A shop whose towers are trained in a second; returns the path of its TOML."""
    config = write_shop(folder, items=600, clicks=2_000)
    config.write_text(config.read_text().replace("[query.text]", f"{LESS}[query.text]"))
    return config


def run_warm(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdout: int, check: bool
) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run` of a command of this Python whose output is read, without its slow imports."""
    assert stdout == subprocess.PIPE and not check
    process = WarmPython(*command[1:], env=env, cwd=cwd)
    output, said = process.communicate()
    assert process.returncode == 0, said
    return subprocess.CompletedProcess(command, process.returncode, output, said)


def test_hits_of_another_bundle_are_seen(tmp_path: Path) -> None:
    folders = [tiny_bundle(tmp_path / f"{items}", items) for items in (100, 300)]
    few, many = map(Retriever.load, folders)
    query, name = Items(folders[0]), item_names(300)[250]  # an item that the smaller bundle lacks
    vector = few.encode([Query(name)]).vectors[0]
    own, other = (hits_of(each.search([Query(name)], 10)[0]) for each in (few, many))
    assert query.holds(own, vector)
    assert not query.holds(other, vector)
    assert not query.holds([*own[:9], (own[9][0], own[9][1] + 0.01)], vector)
    assert not query.holds(own[:9], vector)


@needs_pgvector()
@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_a_host_is_measured_through_the_usual_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure_remote, "write_shop", write_small_shop)
    monkeypatch.setattr(measure_remote, "subprocess", SimpleNamespace(run=run_warm, PIPE=subprocess.PIPE))
    monkeypatch.delenv(uri_variable(PGVECTOR), raising=False)
    sizes = ["--small", "600", "--items", "1500", "--seconds", "3"]
    assert main(["remotetest", "--json", "--engine", PGVECTOR, *sizes]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["items"], found["small_items"], found["engine"]) == (1500, 600, PGVECTOR)
    assert found["failed"] == found["mixed"] == 0
    assert found["recall_at_10"] >= 0.9
    assert found["answers"] > found["answers_after"] > 0
    assert 0 < found["host_files_mib"] < found["rss_mib"]
    assert {"rss_ratio", "p50_ms", "p99_ms", "build_s"} <= found.keys()


@needs_server()
@pytest.mark.exhaustive
def test_the_other_engine_has_a_server_and_an_experiment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_remote, "write_shop", write_small_shop)
    monkeypatch.delenv(uri_variable(MILVUS), raising=False)
    with measure_remote._engine(MILVUS, tmp_path) as engine:
        assert engine is not None and engine.children()
        with closing(database_of(MILVUS)()) as database:
            assert database.names() == []
    assert uri_variable(MILVUS) not in os.environ
    test = measure_remote._Test(Namespace(engine=MILVUS), tmp_path)
    assert read_experiment(test._config).index.kind == MILVUS
