"""The installed programs, where a library of their extra is missing."""

import sys
import tomllib

import pytest

from twinspire.protos import console_scripts
from twinspire.train.paths import ROOT


def test_a_missing_library_is_told_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [each for each in sys.modules if each.startswith("twinspire.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert console_scripts.client() == 1
    said = "error: grpc is not installed; it comes with the extra 'client' of twinspire\n"
    assert capsys.readouterr().err == said


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
