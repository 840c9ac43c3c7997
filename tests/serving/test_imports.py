"""Serving stands alone: it runs where neither torch nor MLflow is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import ROOT
from twinspire.protos import entry_points
from twinspire.protos.bundle import QUERY_TOWER
from twinspire.protos.entry_points import command
from twinspire.serving.benchmark import bundle_benchmark

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "serving").rglob("*.py")
    if path.stem not in ("__init__", "pyfunc_model")  # which MLflow runs
)
FORBIDDEN = ("torch", "mlflow", "polars", "pandas", "train", "export")


def test_serving_imports_nothing_that_it_must_not() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {FORBIDDEN}: sys.modules[name] = None\n"  # importing one fails
        f"for name in {MODULES}: importlib.import_module(name)\n"
        f"print([name for name in {FORBIDDEN} if sys.modules[name] is not None])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("package", "given", "tells"),
    [
        ("twinspire.serving.environment", "0", True),
        ("twinspire.serving.retrieval.encoder", None, False),
        ("export", None, False),
    ],
)
def test_nobody_is_told_of_the_models_that_are_loaded_unless_the_operator_says_so(
    plain: Path, tmp_path: Path, package: str, given: str | None, tells: bool
) -> None:
    if tells and sys.platform != "linux":
        pytest.skip("other builds may tell nobody, or by other ways")
    code = (
        f"import {package}, onnxruntime\n"
        f"onnxruntime.InferenceSession({str(plain / QUERY_TOWER)!r}, providers=['CPUExecutionProvider'])"
    )
    environment = {"HOME": str(tmp_path)} | ({"ORT_DISABLE_TELEMETRY": given} if given else {})
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert bool([each for each in tmp_path.rglob("*") if each.is_file()]) == tells


def test_the_service_needs_no_library_of_the_gateway() -> None:
    code = (
        "import sys\n"
        "for name in ('uvicorn', 'starlette'): sys.modules[name] = None\n"
        "import twinspire.serving.__main__, twinspire.serving.service\n"
        "twinspire.serving.__main__.main(['serve', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_gateway_runs_where_no_service_is_installed() -> None:
    code = (
        "import sys\n"
        "for name in ('onnxruntime', 'hnswlib', 'pyroaring', 'sqlalchemy',\n"
        "             'grpc_health', 'grpc_reflection'): sys.modules[name] = None\n"
        "import twinspire.serving.gateway.process\n"
        "from twinspire.serving.gateway.__main__ import main\n"
        "sys.exit(main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m twinspire.serving.gateway")


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("serve", None, "-event_engine_listener"),
        ("gateway", None, "-event_engine_listener,-event_engine_client"),
        ("gateway", "", ""),
    ],
)
def test_a_command_chooses_how_grpc_reads_unless_the_operator_has(
    command: str, given: str | None, expected: str
) -> None:
    code = "import os, twinspire.serving.environment; print(os.environ['GRPC_EXPERIMENTS'])"
    outer = {key: value for key, value in os.environ.items() if key != "GRPC_EXPERIMENTS"}
    chosen = outer | ({} if given is None else {"GRPC_EXPERIMENTS": given})
    done = subprocess.run(
        [sys.executable, "-c", code, command], capture_output=True, text=True, cwd=ROOT, env=chosen
    )
    assert done.stdout == f"{expected}\n", done.stderr


def test_the_client_needs_grpc_protobuf_and_numpy_alone_and_starts_nothing() -> None:
    code = """
import importlib.abc, os, sys, threading

ALLOWED = {*sys.stdlib_module_names, "grpc", "google", "numpy", "typing_extensions", "twinspire"}


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"the client imports {name}", name=name)


sys.meta_path.insert(0, Refuse())
before, forked = dict(os.environ), []
sys.addaudithook(lambda event, _: forked.append(event) if event in ("os.fork", "subprocess.Popen") else None)
import twinspire.serving.client

twinspire.serving.client.Security(tls=True)
print([dict(os.environ) == before, threading.active_count(), forked])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT / '.import')!r})\n{code}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout == "[True, 1, []]\n", done.stderr


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
