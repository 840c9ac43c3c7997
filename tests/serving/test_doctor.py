"""`doctor`: each check finds what is wrong, and says what to do; the exit status follows."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.serving.conftest import ROOT
from twinspire.serving import doctor
from twinspire.serving.__main__ import main
from twinspire.serving.doctor import Finding

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def shown(finding: Finding, state: str, *parts: str) -> bool:
    """Whether a finding is of a state, and its texts hold the parts."""
    assert finding.state == state, finding
    assert (finding.todo == "") == (state == "ok"), finding
    assert all(part in f"{finding.found} -> {finding.todo}" for part in parts), finding
    return True


def test_python(monkeypatch: Patch) -> None:
    assert shown(doctor.python(), "ok", f"{sys.version_info.major}.{sys.version_info.minor}.")
    monkeypatch.setattr(doctor, "OLDEST", (9, 0))
    assert shown(doctor.python(), "problem", "3.11 or newer", "PYTHON=")
    monkeypatch.setattr(doctor, "OLDEST", (3, 11))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert shown(doctor.python(), "problem", "cannot make environments", "apt-get install python3-venv")


@pytest.mark.skipif(shutil.which("c++") is None, reason="c++ is not installed")
def test_a_compiler_that_works(monkeypatch: Patch) -> None:
    monkeypatch.setenv("CXX", "c++ -O2")
    if (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        assert shown(doctor.compiler(), "ok")


def test_a_compiler_that_is_missing(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shown(
        doctor.compiler(), "warning", "no C++ compiler; hnswlib is built already", "apt-get install g++"
    )
    monkeypatch.setattr(doctor, "COMPILED", "no_such_package")
    assert shown(doctor.compiler(), "problem", "no C++ compiler", "apt-get install g++", "xcode-select")
    (tmp_path / "c++").write_text("#!/bin/sh\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    assert shown(doctor.compiler(), "ok", str(tmp_path / "c++"))
    (tmp_path / "Python.h").unlink()
    assert shown(doctor.compiler(), "problem", "no headers of Python", "python3-dev")


def test_packages(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    assert shown(doctor.packages(requirements, is_set_up=True), "ok", "not a checkout")
    requirements.write_text("# pins\nnumpy==0.0.1\npytest>=1\n")
    assert shown(
        doctor.packages(requirements, is_set_up=True),
        "warning",
        "1 of 1 differ: numpy ",
        "not 0.0.1",
        "make setup",
    )
    requirements.write_text("\n".join(f"no-such-{n}==1" for n in range(5)))
    parts = ("5 of 5 missing: no-such-0, no-such-1, no-such-2, no-such-3, no-such-4", "make setup")
    assert shown(doctor.packages(requirements, is_set_up=True), "problem", *parts)
    assert shown(doctor.packages(requirements, is_set_up=False), "warning", "5 of 5 to install", "make setup")
    assert shown(doctor.packages(ROOT / "none" / ".." / "requirements.txt", is_set_up=True), "ok")


def test_disk(tmp_path: Path, monkeypatch: Patch) -> None:
    folder = tmp_path / "not" / "made" / "yet"
    monkeypatch.setattr(doctor, "LOW_FREE_BYTES", 0)
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 0)
    assert shown(doctor.disk(folder, "name another folder"), "ok", "GiB free for", str(folder))
    monkeypatch.setattr(doctor, "LOW_FREE_BYTES", 1 << 60)
    assert shown(doctor.disk(folder, "name another folder"), "warning", "make clean")
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 60)
    assert shown(doctor.disk(folder, "name another folder"), "problem", "make room, or name another")
    monkeypatch.setattr(os, "access", lambda *_: False)  # a test may run as root, who may write anywhere
    assert shown(
        doctor.disk(folder, "name another folder"), "problem", f"{tmp_path} cannot be written", "name another"
    )


def test_the_exit_status_and_the_document(capsys: Capture, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 0)
    requirements = tmp_path / "requirements.txt"
    monkeypatch.setattr(doctor, "REQUIREMENTS", requirements)
    assert main(["doctor", "--json"]) == 0, capsys.readouterr()
    document = json.loads(capsys.readouterr().out)
    assert document["ok"]
    checks = [each["check"].partition(" ")[0] for each in document["checks"]]
    assert checks == ["python", "compiler", "packages", "disk", "disk"]
    requirements.write_text("no-such-package==1\n")
    assert main(["doctor", "--json"]) == 1
    output, said = capsys.readouterr()
    assert not json.loads(output)["ok"]
    assert said.startswith("error: 1 of 5 ")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("problem  packages"))
    assert lines[at + 1].split() == ["->", "make", "setup"]


def test_it_runs_before_anything_is_installed(tmp_path: Path) -> None:
    """With the standard library alone, as `make doctor` runs it before `make setup`."""
    command = [sys.executable, "-S", "-m", "twinspire.serving.doctor", "--json"]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT / ".import", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    checks = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert checks["packages"]["state"] == "warning"
    assert checks["packages"]["todo"] == "make setup, which make demo runs, too"
    assert checks["python"]["state"] in ("ok", "warning")
