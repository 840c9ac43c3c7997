"""A fingerprint follows what a result follows from, and nothing else."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from train import fingerprint
from train.config import IndexConfig, TrainingConfig
from train.fingerprint import PRESENTATION, source_code
from train.places import ROOT


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


def test_code_counts_where_it_changes_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    for folder in ("train", "protos"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "loop.py").write_text("one\n")
        (tmp_path / folder / "plots.py").write_text("one\n")
    known = source_code("train", "protos")
    (tmp_path / "train" / "plots.py").write_text("two\n")
    (tmp_path / "train" / "notes.md").write_text("two\n")
    assert source_code("train", "protos") == known
    (tmp_path / "protos" / "loop.py").write_text("two\n")
    changed = source_code("train", "protos")
    (tmp_path / "train" / "more.py").touch()
    assert len({known, changed, source_code("train", "protos"), source_code("train")}) == 4


def test_what_is_left_out_of_it_exists() -> None:
    found = {path.name for folder in ("train", "export") for path in (ROOT / folder).glob("*.py")}
    assert {*PRESENTATION} <= found


def test_another_cache_is_honoured_by_every_stage(tmp_path: Path) -> None:
    code = (
        "import train.places, train.dataset, serving.bundles as bundles\n"
        "print(train.places.CACHE, train.dataset.CACHE, bundles.BUNDLES, sep='\\n')"
    )
    environment = {**os.environ, "TWINSPIRE_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.stdout.splitlines() == [str(tmp_path), f"{tmp_path}/data", f"{tmp_path}/bundles"], done.stderr
