"""`make test-hostile`, for a few seconds: the attack that asserts the figures takes three minutes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import ROOT
from tests.serving.hostile import report
from tests.serving.hostile.run import GROUPS

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

GOOD: dict[str, Any] = {
    "good_share_one_connection": 0.99,
    "good_share_new_connections": 0.97,
    "good_share_http": 0.97,
    "rss_peak_ratio": 2.5,
    "rss_after_ratio": 1.2,
    "descriptors_left": 0,
    "exit_code": None,
}


def attack(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.serving.hostile", *arguments], capture_output=True, text=True, cwd=ROOT
    )


def test_a_short_attack_gives_all_figures_and_names_what_missed_its_bound(
    plain: Path, tmp_path: Path
) -> None:
    path = tmp_path / "figures.json"
    short = ("--seconds", "2", "--rest", "0.5", "--kill-every", "1", "--bundle", str(plain))
    done = attack(*short, "--json", str(path))
    assert path.is_file(), done.stderr[-3000:]
    figures = json.loads(path.read_text())
    assert set(GOOD) <= set(figures)
    attackers = {attacker.__name__ for group in GROUPS.values() for attacker in group}
    assert set(figures["attacks"]) == attackers | {"kills"}
    assert figures["attacks"]["kills"]["workers killed"] >= 1
    for client, calls in (("one_connection", 100), ("new_connections", 40), ("over_http", 60)):
        assert figures[client]["calls"] == calls
        assert figures[client]["answered"] + sum(figures[client]["errors"].values()) == calls
    missed = [line.removeprefix("missed: ") for line in done.stderr.splitlines() if "missed: " in line]
    assert missed == report.missed(figures)
    assert done.returncode == (1 if missed else 0)
    assert "rss_peak_ratio" in done.stderr


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, []),
        (
            {"good_share_one_connection": 0.98},
            ["good_share_one_connection: expected at least 0.99, got 0.98"],
        ),
        ({"rss_after_ratio": 1.3, "descriptors_left": 2}, ["rss_after_ratio", "descriptors_left"]),
        ({"exit_code": 3}, ["the service ended by itself with exit code 3"]),
    ],
)
def test_each_bound_that_is_missed_is_named(changed: dict[str, Any], named: list[str]) -> None:
    missed = report.missed({**GOOD, **changed})
    assert len(missed) == len(named)
    assert all(line.startswith(name) for line, name in zip(missed, named, strict=True))
