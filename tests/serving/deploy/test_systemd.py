"""The units: checked by systemd-analyze, and run by a real systemd with all of their hardening."""

import re
import subprocess
from pathlib import Path

import pytest

from serving.client import RetrievalClient
from tests.helpers.serving import systemd
from tests.helpers.waiting import wait_until

NO_TOOLS, NO_MANAGER = systemd.missing_tools(), systemd.missing_manager()
UNITS = sorted(systemd.UNITS.glob("*.service"))
EXPOSURE = 15  # of 100, as `systemd-analyze security` counts; below 20 is "safe" to it


@pytest.mark.skipif(bool(NO_TOOLS), reason=NO_TOOLS)
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_fault_in_the_unit(unit: Path, tmp_path: Path) -> None:
    """`verify` warns of unknown settings and values; the program is not installed here, so it is put there."""
    for path in re.findall(r"^Exec\w+=(\S+)", unit.read_text(), re.MULTILINE):
        program = tmp_path / path.lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for each in UNITS:
        (units / each.name).write_text(each.read_text())
    for target in systemd.TARGETS:
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    checked = _analyze("verify", "--man=no", f"--root={tmp_path}", unit.name)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.skipif(bool(NO_TOOLS), reason=NO_TOOLS)
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_is_exposed_to_little(unit: Path) -> None:
    checked = _analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit))
    assert checked.returncode == 0, checked.stdout


def _analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
