"""A key changes with everything that a result follows from, and with nothing else."""

import ast
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from twinspire.train import fingerprint
from twinspire.train.config import IndexConfig, TrainingConfig
from twinspire.train.fingerprint import code_fingerprint
from twinspire.train.paths import ROOT

SOURCES = {
    "train/__init__.py": "",
    "train/stage.py": "import numpy\nfrom . import model, sources\ndef f():\n import twinspire.export.late\n",
    "train/model.py": "from twinspire.protos.deep import value\n",
    "train/plots.py": "one = 1\n",
    "train/sources/__init__.py": "from .reader import read\n",
    "train/sources/reader.py": "from ...protos import nothing\nfrom ..relative import read\n",
    "train/relative.py": "read = 1\n",
    "protos/__init__.py": "",
    "protos/deep.py": "value = __import__('importlib').import_module('twinspire.export.named')\n",
    "export/__init__.py": "",
    "export/late.py": "",
    "export/named/__init__.py": "",
    "export/named/__main__.py": "",
    "export/plots.py": "",
}
NOT_IMPORTED = {"train/plots.py", "export/plots.py"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project whose `train.stage` imports in every way that is used."""
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_value_counts() -> None:
    known = fingerprint.fingerprint(TrainingConfig(), "data", [1, 2])
    assert known == fingerprint.fingerprint(TrainingConfig(), "data", [1, 2])
    assert len(known) == 64
    others = [
        (dataclasses.replace(TrainingConfig(), seed=1), "data", [1, 2]),
        (TrainingConfig(), "other", [1, 2]),
        (TrainingConfig(), "data", [2, 1]),
        (IndexConfig(), "data", [1, 2]),
    ]
    assert len({known, *(fingerprint.fingerprint(*other) for other in others)}) == 5


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_counts_if_the_entry_imports_it_directly_or_not(tree: Path, name: str) -> None:
    known = code_fingerprint("twinspire.train.stage")
    assert code_fingerprint("twinspire.train.stage") == known
    with (tree / name).open("a") as file:
        file.write("more = 1\n")
    assert (code_fingerprint("twinspire.train.stage") == known) == (name in NOT_IMPORTED)


def test_a_file_that_is_new_moved_or_removed_counts(tree: Path) -> None:
    keys = {code_fingerprint("twinspire.train.stage")}
    (tree / "train" / "relative.py").rename(tree / "train" / "elsewhere.py")
    keys.add(code_fingerprint("twinspire.train.stage"))
    (tree / "train" / "sources" / "reader.py").write_text("from twinspire.train.elsewhere import read\n")
    keys.add(code_fingerprint("twinspire.train.stage"))
    (tree / "train" / "relative").mkdir()
    (tree / "train" / "relative" / "__init__.py").touch()
    keys.add(code_fingerprint("twinspire.train.stage", "twinspire.train.relative"))
    keys.add(code_fingerprint("twinspire.export.late"))
    assert len(keys) == 5


def test_files_that_no_module_imports_do_not_count(tree: Path) -> None:
    known = code_fingerprint("twinspire.train.stage")
    (tree / "tests").mkdir()
    for name in ("README.md", "tests/test_stage.py", "train/notes.md", "train/new.py", "numpy.py"):
        (tree / name).write_text("pass\n")
    assert code_fingerprint("twinspire.train.stage") == known


def test_the_versions_of_imported_libraries_count(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, version = code_fingerprint("twinspire.train.stage"), fingerprint._version
    for changed, same in (("torch", True), ("numpy", False)):
        monkeypatch.setattr(
            fingerprint, "_version", lambda name, it=changed: "0" if name == it else version(name)
        )
        assert (code_fingerprint("twinspire.train.stage") == known) == same


def test_the_walk_over_a_file_finds_what_one_over_all_nodes_finds() -> None:
    paths = [*(ROOT / "train" / "training").glob("*.py")]
    assert len(paths) > 10
    for path in paths:
        nodes = ast.walk(ast.parse(path.read_bytes()))
        expected = {name for node in nodes for name in fingerprint._names(node, "twinspire.train.training")}
        assert {*fingerprint._imported(path.read_bytes(), "twinspire.train.training")} == expected, path


@pytest.mark.parametrize(
    "source",
    [
        "def f(a='twinspire.train.named', *, b=0): pass",
        "@f(name='twinspire.train.named')\nasync def f(): pass",
        "class A(metaclass=f('twinspire.train.named')): pass",
        "x: 'twinspire.train.named'",
        "f'{x:{y}}{g(\"twinspire.train.named\")}'",
        "{**x, 1: ['twinspire.train.named']}",
        "{'twinspire.train.named': 1}",
        "x = [y for y in z if y != 'twinspire.train.named']",
        "x = lambda y: y['twinspire.train.named':]",
        "match x:\n    case [A(b='twinspire.train.named')]: pass",
        "match x:\n    case _ if x: import twinspire.train.named",
        "try: pass\nexcept A: pass\nelse:\n    with f() as g: from twinspire.train import named",
        "while x: pass\nelse: import twinspire.train.named",
        "try: pass\nfinally:\n    async def f(): from twinspire.train.named import x",
    ],
)
def test_a_name_is_found_wherever_it_is_in_a_file(source: str) -> None:
    assert "twinspire.train.named" in fingerprint._imported(source.encode(), "twinspire.train")


def test_an_installed_package_keeps_its_files_in_the_current_directory(tmp_path: Path) -> None:
    installed, here = tmp_path / "site-packages" / "twinspire" / "train", tmp_path / "here"
    for folder in (installed, here):
        folder.mkdir(parents=True)
    (installed / "__init__.py").touch()
    shutil.copy(ROOT / "train" / "paths.py", installed)
    code = (
        "from twinspire.train.paths import CACHE, CONFIGS, MLRUNS\nprint(CACHE, CONFIGS, MLRUNS, sep='\\n')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TWINSPIRE_CACHE"}
    environment["PYTHONPATH"] = str(installed.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=here, env=environment
    )
    expected = [str(here / name) for name in (".cache", "train/configs", "mlruns")]
    assert done.stdout.splitlines() == expected, done.stderr


def test_another_cache_is_honoured_by_every_stage(tmp_path: Path) -> None:
    code = (
        "import twinspire.train.paths, twinspire.train.data.dataset, twinspire.serving.bundles as bundles\n"
        "print(twinspire.train.paths.CACHE, twinspire.train.data.dataset.CACHE, bundles.BUNDLES, sep='\\n')"
    )
    environment = {**os.environ, "TWINSPIRE_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.stdout.splitlines() == [str(tmp_path), f"{tmp_path}/data", f"{tmp_path}/bundles"], done.stderr
