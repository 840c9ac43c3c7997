"""Encoding on a real Ray cluster: the same bytes, also if a node dies, and errors that say what is wrong."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.export.encoding.test_windows import documents, write_table
from tests.helpers.item_tower import tower_at
from tests.helpers.ray_nodes import ENVIRONMENT, Nodes, needs_ray, ray_nodes
from tests.helpers.tiny import tiny_bundle
from tests.helpers.tiny_towers import TinyTower, write_tower
from twinspire.export.encoding import WINDOW, ColumnRecords, encode_into
from twinspire.train.paths import ROOT

pytestmark = [needs_ray(), pytest.mark.exhaustive]
WINDOWS = 8
COUNT = WINDOWS * WINDOW + 100

# Encodes a table on a cluster; says when the first window is written, and goes on at a line from outside.
DRIVER = """
import sys
from dataclasses import replace
from pathlib import Path
from rich.console import Console
from twinspire.export.encoding import TableRecords, encode_into
from twinspire.export.encoding.ray_cluster import windows_of
from twinspire.protos.errors import TwinspireError
from tests.helpers.item_tower import tower_at

address, table, tower, output = sys.argv[1], *map(Path, sys.argv[2:])
out = sys.stdout
tower = replace(tower_at(tower), encode=None)  # which is not to be used here
records = TableRecords.open(table, tower.inputs.features)
console = Console(stderr=True)

def watched(*arguments):
    for n, window in enumerate(windows(*arguments)):
        yield window
        if n == 0:
            print("first", file=out, flush=True)
            sys.stdin.readline()

try:
    with windows_of(address, console) as windows:
        streamed = encode_into(output, tower, records, console, "items", watched)
        print("resumed at", streamed.resumed_at, file=out, flush=True)
except TwinspireError as error:
    print(type(error).__name__, error, file=out, flush=True)
"""


class Driver:
    """A process that encodes on the cluster."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def says(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> str:
        """Let it go on; returns what it says in the end."""
        out, _ = self.process.communicate("\n", timeout=240)
        return str(out).strip()


@contextlib.contextmanager
def driving(address: str, folder: Path, output: Path, script: str = DRIVER) -> Iterator[Driver]:
    """Run a script on the table and the tower of a folder; kills it at the end if it still runs."""
    command = [sys.executable, "-c", script, address]
    command += [str(path) for path in (folder / "items.parquet", folder / "item_tower.onnx", output)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT, **pipes) as process:
        try:
            yield Driver(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tower, a table, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("ray")
    write_tower(folder / "item_tower.onnx", TinyTower())
    texts = documents(COUNT)
    write_table(pl.DataFrame({"text": texts}), folder / "items.parquet")
    tower = tower_at(folder / "item_tower.onnx")
    encode_into(folder / "whole.npy", tower, ColumnRecords({"text": texts}), Console(quiet=True), "items")
    return folder


def test_a_node_dies_and_the_bytes_are_those_of_one_process(
    nodes: Nodes, folder: Path, tmp_path: Path
) -> None:
    with driving(nodes.address, folder, tmp_path / "vectors.npy") as running:
        assert running.says() == "first"
        nodes.kill()
        assert running.go_on() == "resumed at 0"
        nodes.add()
    assert (tmp_path / "vectors.npy").read_bytes() == (folder / "whole.npy").read_bytes()


def test_a_killed_process_is_resumed_on_the_cluster(nodes: Nodes, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"
    with driving(nodes.address, folder, output) as running:
        assert running.says() == "first"
    written = len(json.loads((tmp_path / "vectors.npy.journal").read_bytes())["windows"])
    assert written >= 1
    with driving(nodes.address, folder, output) as running:
        assert running.says() == "first"
        assert running.go_on() == f"resumed at {written * WINDOW}"
    assert output.read_bytes() == (folder / "whole.npy").read_bytes()


def test_a_command_encodes_on_the_cluster(nodes: Nodes, tmp_path: Path) -> None:
    bundle, table = tiny_bundle(tmp_path / "bundle"), tmp_path / "items.jsonl"
    write_table(pl.DataFrame({"text": ["read a file", "sort a list"]}), table)

    def encode(output: str, *options: str) -> "subprocess.CompletedProcess[str]":
        command: list[str | Path] = [sys.executable, "-m", "twinspire.export", "encode", "--bundle", bundle]
        command += ["--config", ROOT / "train/configs/pydocs-small.toml", "--items", table]
        command += ["--output", tmp_path / output, *options]
        environment = os.environ | ENVIRONMENT
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    for output, options in (("one.npy", ()), ("ray.npy", ("--ray", nodes.address))):
        ended = encode(output, *options)
        assert ended.returncode == 0, ended.stderr
        assert "2 vectors" in ended.stdout
    assert (tmp_path / "ray.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    ended = encode("none.npy", "--ray", "127.0.0.1:1")
    assert ended.returncode == 1
    assert "no Ray cluster answers" in ended.stderr


def test_a_bad_value_is_named_by_its_row(nodes: Nodes, folder: Path, tmp_path: Path) -> None:
    texts = "ColumnRecords({'text': ['a'] * (WINDOW + 41) + [None]})"
    script = DRIVER.replace("TableRecords.open(table, tower.inputs.features)", texts)
    script = script.replace("import TableRecords, encode_into", "import WINDOW, ColumnRecords, encode_into")
    with driving(nodes.address, folder, tmp_path / "vectors.npy", script) as running:
        assert f"InvalidInput item.text: row {WINDOW + 42} of items: expected a string" in running.go_on()


def test_nodes_with_other_code_are_refused(nodes: Nodes, folder: Path, tmp_path: Path) -> None:
    other = (
        "import twinspire.export.encoding.ray_cluster as module\nmodule._versions = lambda: {'numpy': '1'}\n"
    )
    with driving(nodes.address, folder, tmp_path / "vectors.npy", other + DRIVER) as running:
        said = running.go_on()
    assert f"cannot encode: it has numpy {np.__version__}, and the process that sends has 1" in said
    assert not (tmp_path / "vectors.npy").exists()


# Asks for a cluster at one address after the other: importing Ray for each takes seconds.
ADDRESSES = """
import sys
from rich.console import Console
from twinspire.export.encoding.ray_cluster import windows_of
from twinspire.protos.errors import TwinspireError

for address in sys.argv[1:]:
    try:
        with windows_of(address, Console(stderr=True)):
            print("a cluster")
    except TwinspireError as error:
        print(type(error).__name__, error)
"""


def test_without_a_cluster_the_error_says_how_to_start_one() -> None:
    addresses = ["127.0.0.1:1", "nowhere.invalid:6379", "nowhere", "127.0.0.1:a", "ray://a:1"]
    command, environment = [sys.executable, "-c", ADDRESSES, *addresses], os.environ | ENVIRONMENT
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for address, said in zip(addresses, done.stdout.splitlines(), strict=True):
        assert said.startswith(f"Unavailable --ray {address}: no Ray cluster answers (")
        assert said.endswith("`ray start --head` starts one")
