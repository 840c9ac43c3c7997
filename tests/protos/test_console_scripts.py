"""The installed programs, where a library of their extra is missing."""

import subprocess
import sys
import tomllib

import pytest

from twinspire.protos import console_scripts
from twinspire.train.paths import ROOT


def test_a_missing_library_is_told_with_the_extra_that_brings_it() -> None:
    code = (
        "import sys; sys.modules['grpc'] = None\n"  # importing it fails
        "from twinspire.protos import console_scripts; sys.exit(console_scripts.client())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    said = "error: grpc is not installed; it comes with the extra 'client' of twinspire\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_module_of_this_project_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twinspire.train.__main__", None)
    with pytest.raises(ModuleNotFoundError, match=r"twinspire\.train"):
        console_scripts.train()


def test_each_program_of_the_package_is_here_and_its_extra_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for program, place in project["scripts"].items():
        module, _, function = place.partition(":")
        assert module == console_scripts.__name__
        assert callable(getattr(console_scripts, function)), program
    assert {"train", "serving", "client", "http"} <= {*project["optional-dependencies"]}
