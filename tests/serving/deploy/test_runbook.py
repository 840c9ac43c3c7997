"""The runbook has a section for each alert, and names only what exists."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.serving import prometheus, systemd
from tests.serving.conftest import ROOT
from tests.serving.deploy.test_prometheus import rules
from twinspire.serving import __main__ as commands
from twinspire.serving import catalogue
from twinspire.serving.observability.metrics import METRICS
from twinspire.serving.security.tokens import Role

RUNBOOK = (ROOT / "serving" / "RUNBOOK.md").read_text()
SECURITY = (ROOT / "serving" / "SECURITY.md").read_text()
ALERTS = [rule["alert"] for rule in rules("alert")]
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
PROGRAMS = {"chgrp", "chmod", "curl", "df", "grep", "ls", "openssl", "ss", "vmstat"}
SHELL_BLOCKS = re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in SHELL_BLOCKS for line in block.splitlines()]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_each_alert_has_its_section_and_leads_to_it() -> None:
    assert list(SECTIONS) == ALERTS
    for rule in rules("alert"):
        assert rule["annotations"]["runbook"] == f"serving/RUNBOOK.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_says_what_it_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    found = re.findall(r"^\*\*(\w+)\.\*\*", SECTIONS[alert], re.MULTILINE)
    assert found == ["Means", "Look", "Do"]


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_each_command_exists(line: str) -> None:
    for command in line.split(" | "):
        words = shlex.split(command)
        if words[:3] == ["/opt/twinspire/bin/python", "-m", "twinspire.serving"]:
            commands._parser().parse_args(words[3:])
        elif words[:3] == ["/opt/twinspire/bin/python", "-m", "twinspire.serving.catalogue"]:
            catalogue._parser().parse_args(words[3:])
        elif words[0] == "make":
            assert words[1] in TARGETS
            variables = {word.split("=")[0] for word in words[2:]}
            assert all(f"$({name})" in MAKEFILE or f"$${{{name}" in MAKEFILE for name in variables), variables
        elif words[0] in ("systemctl", "journalctl"):
            units = [word for word in words if word.startswith("twinspire")]
            assert all((systemd.UNITS / f"{unit}.service").is_file() for unit in units)
        else:
            assert words[0] in PROGRAMS, words[0]


def test_each_metric_and_each_flag_that_is_named_exists() -> None:
    names = {metric.name for metric in METRICS} | prometheus.GATEWAY_METRICS.keys()
    for name in re.findall(r"twinspire_\w+", RUNBOOK):
        assert any(known.startswith(name) or name.startswith(known) for known in names), name
    assert flags_in(RUNBOOK) <= known_flags()


def flags_in(page: str) -> set[str]:
    """The flags that the prose of a page names."""
    prose = re.sub(r"^```sh\n.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return {*re.findall(r"`(?:gateway )?(--[a-z-]+)", prose)}


def known_flags() -> set[str]:
    """The flags of all commands of the service."""
    parser = commands._parser()
    (subparsers,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return {
        flag
        for sub in dict(subparsers.choices or {}).values()
        for action in sub._actions
        for flag in action.option_strings
    }


def test_what_the_log_is_searched_for_is_logged() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    for wanted in re.findall(r"--grep '([^']+)'", RUNBOOK):
        for word in wanted.split("|"):
            if word not in (
                "WARNING",
                "ERROR",
                "out of memory",
                "oom",
                "twinspire.serving.security.auth",
                "catalogue",
            ):
                assert word in source, word


def test_the_security_page_names_flags_that_exist() -> None:
    assert len(re.findall(r"^\| \d+ \|", SECURITY, re.MULTILINE)) == 10
    for command in re.findall(r"`((?:serve|gateway) [^`]+)`", SECURITY):
        words = command.split()
        if words[-1].startswith("--"):
            words.append("127.0.0.1")
        assert commands._parser().parse_args(words).command == words[0]
    assert {"reader", "writer"} <= {role.name.lower() for role in Role}


def test_links_of_the_pages_lead_somewhere() -> None:
    for name in ("RUNBOOK.md", "OPERATIONS.md", "SECURITY.md", "deploy/README.md"):
        page = f"serving/{name}"
        text = (ROOT / page).read_text()
        headings = {
            re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            if path:
                assert (Path(ROOT / page).parent / path).exists(), (page, target)
            else:
                assert anchor in headings, (page, target)
