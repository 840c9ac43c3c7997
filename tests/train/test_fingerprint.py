"""A key changes with everything that a result follows from, and with nothing else."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinspire.train import fingerprint
from twinspire.train.config.index import IndexConfig
from twinspire.train.config.training import TrainingConfig
from twinspire.train.fingerprint import code_fingerprint
from twinspire.train.paths import ROOT

SOURCES = {
    "protos/deep.py": "import json\n",
    "train/stage.py": "import numpy\n\ndef f():\n    from torch import nn\n",
    "train/kernel.c": "int one;\n",
    "export/late.py": "import onnx\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with code of three stages."""
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


@pytest.mark.parametrize("stage", ["train", "export"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_file_counts_for_its_stage_and_for_later_ones(tree: Path, name: str, stage: str) -> None:
    known = code_fingerprint(f"twinspire.{stage}.any")
    assert code_fingerprint(f"twinspire.{stage}.other") == known
    with (tree / name).open("a") as file:
        file.write("more\n")
    is_covered = name.partition("/")[0] in fingerprint.STAGES[stage]
    assert (code_fingerprint(f"twinspire.{stage}.any") != known) == is_covered


def test_a_file_that_is_new_moved_or_removed_counts_and_one_that_is_no_code_does_not(tree: Path) -> None:
    keys = {code_fingerprint("twinspire.train.stage")}
    for name in ("README.md", "tests/test_stage.py", "train/notes.md", "numpy.py", "serving/one.py"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("pass\n")
    assert {code_fingerprint("twinspire.train.stage")} == keys
    (tree / "train" / "stage.py").rename(tree / "train" / "elsewhere.py")
    keys.add(code_fingerprint("twinspire.train.stage"))
    (tree / "train" / "kernel.c").unlink()
    keys.add(code_fingerprint("twinspire.train.stage"))
    (tree / "train" / "new.py").touch()
    keys.add(code_fingerprint("twinspire.train.stage"))
    assert len(keys) == 4


def test_the_versions_of_imported_libraries_count(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, version = code_fingerprint("twinspire.train.stage"), fingerprint._version
    for changed, same in (("torch", False), ("numpy", False), ("onnx", True), ("mlflow", True)):
        monkeypatch.setattr(
            fingerprint, "_version", lambda name, it=changed: "0" if name == it else version(name)
        )
        assert (code_fingerprint("twinspire.train.stage") == known) == same


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
