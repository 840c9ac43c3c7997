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
