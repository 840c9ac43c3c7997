"""The key of each stage covers every module that the stage loads when it really runs."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.stdlib import tracking_at, write_toml
from tests.helpers.warm import WarmPython
from twinspire.export import bundle_builder
from twinspire.train import fingerprint
from twinspire.train.config import read_experiment
from twinspire.train.data import dataset as data_sets
from twinspire.train.paths import ROOT
from twinspire.train.training import run as training_run
from twinspire.train.training.tracking import find_run

COMPILED = re.compile(r"/_(\w+)\.[\w.-]+\.so$")  # of a compiled module, whose source is `name.c`
# Runs one stage after the other and prints which source files of this project each has loaded. The modules of
# this project are forgotten in between, so that each stage imports what it needs, as in a process of its own.
RUN = """
import json, sys
from pathlib import Path
import mlflow
from rich.console import Console

path, root = Path(sys.argv[1]), Path(sys.argv[2])
console = Console(stderr=True)
before = {*sys.modules}  # of `tests.helpers.warm`, none of this project's stages

def data():
    from twinspire.train.config import read_experiment
    from twinspire.train.data.dataset import prepare
    experiment = read_experiment(path)
    return experiment, prepare(experiment, path.parent, console=console)

def fit():
    from twinspire.train.training.run import fit
    assert not fit(*data(), console)[1], "reused"

def bundle():
    from twinspire.export.bundle_builder import build_bundle
    experiment, dataset = data()
    (run,) = mlflow.search_runs(experiment_names=[experiment.name], output_format="list")
    assert not build_bundle(experiment, dataset, run)[1], "reused"

def loaded():
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name not in before and file and name.startswith("twinspire."):
            yield name, Path(file).resolve().relative_to(root).as_posix()

found = {}
for stage in (data, fit, bundle):
    stage()
    modules = dict(loaded())
    found[stage.__name__] = sorted(modules.values())
    for name in modules:
        del sys.modules[name]
print(json.dumps(found))
"""
STAGES = ("data", "fit", "bundle")
EXPECTED = {
    "data": (
        "train/data/dataset.py",
        "train/data/sources/files.py",
        "train/config/data.py",
        "protos/features.py",
    ),
    "fit": ("train/training/run.py", "train/models/sequence_encoders.py", "train/training/trainer.py"),
    "bundle": (
        "export/bundle_builder.py",
        "export/quantization/tables.py",
        "train/models/sequence_encoders.py",
    ),
}
SMALL: Any = {
    "data": {"max_items": 120},
    "training": {"epochs": 1},
    "tower": {"buckets": 2048, "item_hidden": 0},
    "export": {"iterations": 5},
}

Keys = Mapping[str, Callable[[], str]]

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.exhaustive,
]  # training and exporting, however small, take a while on a busy machine


@dataclass(frozen=True)
class Ran:
    """Three stages that ran.

    Args:
        config: the experiment's TOML.
        uri: of the MLflow store.
        cache: that the stages wrote to.
        files: stage -> the source files of this project that it loaded.
    """

    config: Path
    uri: str
    cache: Path
    files: Mapping[str, list[str]]


@pytest.fixture(scope="module")
def ran(stdlib: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All stages, once, on a data set that is as small as it may be."""
    folder = tmp_path_factory.mktemp("stages")
    config = write_toml(stdlib, folder / "a.toml", "stage-keys", **SMALL)
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    environment = {
        **os.environ,
        "TWINSPIRE_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": uri,
        "OMP_NUM_THREADS": "1",
    }
    process = WarmPython("-c", RUN, str(config), str(ROOT), env=environment, cwd=folder)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return Ran(config, uri, folder / "cache", json.loads(printed.splitlines()[-1]))


@pytest.fixture
def keys(ran: Ran) -> Iterator[dict[str, Callable[[], str]]]:
    """Stage -> the key that it would keep its result under now."""
    experiment = read_experiment(ran.config)
    dataset = data_sets.prepare(experiment, ran.config.parent, ran.cache / "data")
    with tracking_at(ran.uri):
        run = find_run(experiment.name, "fit")
    assert run is not None
    yield {
        "data": lambda: data_sets._fingerprint(experiment, None, "the same data"),
        "fit": lambda: training_run._fingerprint(experiment, dataset),
        "bundle": lambda: bundle_builder._fingerprint(experiment, run),
    }


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tree, from which keys are computed."""
    for package in ("protos", "train", "export", "serving", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_of_any_module_that_a_stage_loads_changes_its_key(
    stage: str, ran: Ran, keys: Keys, copy: Path
) -> None:
    assert set(EXPECTED[stage]) <= set(ran.files[stage])
    known = keys[stage]()
    without_effect = []
    for loaded in ran.files[stage]:
        name = COMPILED.sub(r"/\1.c", loaded)
        source = (copy / name).read_bytes()
        (copy / name).write_bytes(source + b"\n_harmless = 1\n")
        if keys[stage]() == known:
            without_effect.append(name)
        (copy / name).write_bytes(source)
    assert without_effect == []
    assert keys[stage]() == known


@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_of_a_file_that_is_of_no_stage_leaves_its_key(stage: str, keys: Keys, copy: Path) -> None:
    known = keys[stage]()
    for name in (
        "README.md",
        "tests/helpers/tiny.py",
        "serving/server.py",
    ):
        with (copy / name).open("a") as file:
            file.write("\n_harmless = 1\n")
    assert keys[stage]() == known


def test_a_change_of_any_setting_but_of_gates_and_bench_changes_the_key_of_a_bundle(
    ran: Ran, keys: Keys
) -> None:
    experiment = read_experiment(ran.config)
    with tracking_at(ran.uri):
        run = find_run(experiment.name, "fit")
    assert run is not None
    known = keys["bundle"]()
    changes: dict[str, Any] = {
        "name": "another",
        "training": replace(experiment.training, selection="ndcg_at_10"),
        "export": replace(experiment.export, iterations=7),
        "gates": {"quality_margin": 0.5},
    }
    found = {
        name: bundle_builder._fingerprint(replace(experiment, **{name: value}), run) != known
        for name, value in changes.items()
    }
    assert found == {"name": True, "training": True, "export": True, "gates": False}
