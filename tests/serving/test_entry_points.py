"""The modules that one stage starts in another exist, and refuse what they do not understand."""

import json
import subprocess
from pathlib import Path

import pytest

from protos import entry_points
from protos.entry_points import command
from tests.serving.conftest import ROOT


def run(*arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    """Run an entry point with a line on its standard input."""
    return subprocess.run(
        command(*arguments), input=given, capture_output=True, text=True, cwd=ROOT, timeout=60
    )


COMMANDS = [
    each for each in entry_points.ALL if each not in (entry_points.REGISTRY, entry_points.BUNDLE_BENCHMARK)
]


@pytest.mark.parametrize("module", COMMANDS)
def test_an_entry_point_shows_its_help(module: str) -> None:
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module}")


@pytest.mark.parametrize("module", COMMANDS)
def test_an_entry_point_refuses_arguments_that_it_does_not_have(module: str) -> None:
    done = run(module, "--no-such-flag")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["no JSON", "{}", '{"task": "sing"}', None])
def test_the_comparison_of_bundles_answers_a_bad_request_with_an_error(
    content: str | None, tmp_path: Path
) -> None:
    request = tmp_path / "request.json"
    if content is not None:
        request.write_text(content)
    done = run(entry_points.BUNDLE_BENCHMARK, str(request))
    assert (done.returncode, done.stderr) == (1, "")
    assert "error" in json.loads(done.stdout)["failed"]


def test_the_registry_process_answers_calls_that_it_does_not_have_with_an_error() -> None:
    process = subprocess.Popen(
        command(entry_points.REGISTRY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for line in ("no JSON", '["drop", "everything"]', '["download", 1, 2]', "7"):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["error"] == "Unavailable"
    process.stdin.close()
    process.wait(30)
    process.stdout.close()
