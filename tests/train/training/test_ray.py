"""The file of the README that trains under Ray Train, where Ray is installed."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.stdlib import PLAIN, QUICK, write_toml
from tests.test_readmes import blocks, named
from tests.train.training.test_run import environment, only_run


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_two_workers_of_ray_train_one_run(stdlib: Path, empty_store: Path, tmp_path: Path) -> None:
    (script,) = (each.text for each in blocks("python") if named(each) == "ray_fit.py")
    (tmp_path / "ray_fit.py").write_text(script)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    short: Any = {"training": {"epochs": 2, "batch_size": 64, "threads": 1}}
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **short)
    variables = {
        "HOME": str(tmp_path),  # Ray writes its results below
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray listens on 127.0.0.1, as it does on these systems
    }
    done = subprocess.run(
        [sys.executable, "ray_fit.py", str(config), "2"],
        cwd=tmp_path,
        env={**environment(tmp_path), **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = only_run(tmp_path)
    assert (run.info.status, run.data.tags["ranks"]) == ("FINISHED", "2")
