"""The modules that one stage starts in another exist, and refuse what they do not understand."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.serving.conftest import ROOT
from twinspire.protos import entry_points
from twinspire.protos.entry_points import command
from twinspire.serving.benchmark import bundle_benchmark

COMMANDS = [
    each for each in entry_points.ALL if each not in (entry_points.REGISTRY, entry_points.BUNDLE_BENCHMARK)
]


@pytest.mark.parametrize("module", COMMANDS)
def test_an_entry_point_refuses_arguments_that_it_does_not_have(module: str) -> None:
    typed = command(module, "--no-such-flag")
    done = subprocess.run(typed, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: python -m {module}")


@pytest.mark.parametrize("content", ["no JSON", "{}", '{"task": "sing"}', None])
def test_the_comparison_of_bundles_answers_a_bad_request_with_an_error(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = tmp_path / "request.json"
    if content is not None:
        request.write_text(content)
    with pytest.raises(SystemExit) as ended:
        bundle_benchmark.main([str(request)])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "error" in json.loads(printed.out)["failed"]
    assert printed.err == ""


@pytest.mark.parametrize("arguments", [[], ["no number"]])
def test_the_registry_process_refuses_what_is_no_descriptor(arguments: list[str]) -> None:
    typed = command(entry_points.REGISTRY, *arguments)
    done = subprocess.run(typed, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: expected the number of a descriptor\n")
