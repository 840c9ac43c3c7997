"""Recipes of the Makefile: what they say, what must not run twice at once in one folder, and MLflow."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ports import held_port
from tests.helpers.waiting import wait_until
from twinspire.export.release.registry import CHAMPION
from twinspire.train.paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Stands in for Python: writes down what a recipe runs and, the first time, waits for the file `go`.
STAND_IN = """#!/bin/bash
case "$1 $2" in
  "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  -m*) ;;
  *) exec {python} "$@" ;;
esac
echo "begin $2 $3" >> log
until [ -e go ]; do sleep 0.02; done
echo "end $2 $3" >> log
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the Makefile, an experiment, and a stand-in for Python."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "a.toml").write_text('name = "a"\n')
    (tmp_path / "python").write_text(STAND_IN.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def install(folder: Path, script: str, name: str = "python") -> None:
    """Put a program where `make setup` puts it, as if that had run."""
    program = folder / ".venv" / "bin" / name
    program.parent.mkdir(parents=True)
    program.write_text(script)
    program.chmod(0o755)
    (folder / ".venv" / ".installed").touch()


def make(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """What make returns and prints in a folder, with further variables in its environment."""
    command, environment = ["make", *arguments], {**os.environ, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("target", ["setup", "demo"])
def test_the_second_of_two_at_once_waits_for_the_first(folder: Path, target: str) -> None:
    log, go = folder / "log", folder / "go"
    if target == "demo":  # made before
        install(folder, (folder / "python").read_text())

    def start(name: str) -> "subprocess.Popen[bytes]":
        command = ["make", target, f"PYTHON={folder}/python", "CONFIG=a.toml"]
        with (folder / name).open("wb") as output:
            return subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)

    first = start("first")
    wait_until(log.exists)
    second = start("second")
    try:
        wait_until(lambda: b"is at work here; waiting for it" in (folder / "second").read_bytes())
        assert log.read_text().count("begin") == 1
    finally:
        go.touch()
        codes = first.wait(60), second.wait(60)
    assert codes == (0, 0), (folder / "first").read_text() + (folder / "second").read_text()
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["begin", "end"] * (len(lines) // 2)
    assert lines.count(lines[0]) == {"setup": 1, "demo": 2}[target]


def test_a_pip_that_fails_fails_setup(folder: Path) -> None:
    python = (folder / "python").read_text()
    (folder / "python").write_text(python.replace("  -m*) ;;", '  "-m pip") exit 3 ;;\n  -m*) ;;'))
    (folder / "go").touch()
    done = make(folder, "setup", f"PYTHON={folder}/python")
    assert done.returncode != 0
    assert not (folder / ".venv" / ".installed").exists()


def test_a_python_that_fails_is_shown_and_not_taken_for_another_recipe(folder: Path) -> None:
    install(folder, "#!/bin/bash\necho 'no module fcntl' >&2; exit 3\n")
    done = make(folder, "demo", f"PYTHON={folder}/python", "CONFIG=a.toml")
    assert done.returncode != 0
    assert "no module fcntl" in done.stderr
    assert "is at work here" not in done.stderr


def test_a_killed_demo_does_not_block_the_next(folder: Path) -> None:
    install(folder, (folder / "python").read_text())
    command = ["make", "demo", f"PYTHON={folder}/python", "CONFIG=a.toml"]
    first = subprocess.Popen(command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL)
    wait_until((folder / "log").exists)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(60)
    (folder / "go").touch()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def installed(folder: Path) -> Path:
    """`folder` after `make setup`, with a Python that says what it was started with."""
    install(folder, '#!/bin/bash\necho "$@ TWINSPIRE_MAKE=$TWINSPIRE_MAKE"\n')
    return folder


@pytest.mark.parametrize("target", ["serve", "serve-mlflow", "demo"])
def test_an_experiment_that_is_not_there_is_named(installed: Path, target: str) -> None:
    done = make(installed, target, "CONFIG=nope.toml")
    assert done.returncode == 2
    assert done.stdout == ""
    first = done.stderr.splitlines()[0]
    assert first == "error: CONFIG=nope.toml: there is no such file; experiments are in train/configs/"


@pytest.mark.parametrize(
    ("targets", "given", "expected"),
    [
        ("data", "CONFIG=a.toml", "next: make train CONFIG=a.toml\n"),
        ("train", "", "next: make export\n"),
        ("export register promote", "CONFIG=a.toml", "next: make serve CONFIG=a.toml\n"),
        ("register", "JSON=result.json", "next: make promote\n"),
        ("evaluate", "", ""),
    ],
)
def test_a_stage_ends_with_the_command_of_the_next_one(
    installed: Path, targets: str, given: str, expected: str
) -> None:
    done = make(installed, *targets.split(), *given.split())
    assert (done.returncode, done.stderr) == (0, expected)


@pytest.mark.parametrize(("kind", "asked"), [("history", 'HISTORY="id id id"'), ("text", 'Q="..."')])
def test_the_demo_suggests_a_query_that_the_model_takes(installed: Path, kind: str, asked: str) -> None:
    (installed / "a.toml").write_text(f'name = "a"\n[query.it]\nkind = "{kind}"\n')
    done = make(installed, "demo", "CONFIG=a.toml")
    assert done.stdout.splitlines()[-1].split(maxsplit=2) == ["make", "search", asked]


def test_a_bundle_is_served_without_an_experiment(installed: Path) -> None:
    done = make(installed, "serve", "CONFIG=nope.toml", "BUNDLE=b")
    assert (done.returncode, done.stderr) == (0, "")
    assert " --bundle b" in done.stdout


def test_programs_learn_that_make_started_them(installed: Path) -> None:
    done = make(installed, "train", "CONFIG=a.toml")
    assert done.stdout == "-m twinspire.train fit --config a.toml TWINSPIRE_MAKE=1\n"


def test_several_processes_are_started_by_torchrun_once_the_data_set_is_there(installed: Path) -> None:
    done = make(installed, "train", "CONFIG=a.toml", "RANKS=3", "RESUME=1")
    launcher = "-m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 3"
    launched = f"{launcher} -m twinspire.train fit --config a.toml --resume"
    assert done.stdout == f"{launched} TWINSPIRE_MAKE=1\n", done.stderr  # `train data` prints nothing


@pytest.mark.parametrize("given", ["0", "-1", "two", "2.5"])
def test_a_wrong_number_of_processes_is_misuse(installed: Path, given: str) -> None:
    done = make(installed, "train", "CONFIG=a.toml", f"RANKS={given}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: RANKS={given}: expected a whole number from 1 on" in done.stderr


def test_doctor_runs_after_setup_and_before(folder: Path, installed: Path) -> None:
    shutil.copy(folder / ".venv" / "bin" / "python", folder / "other")
    arguments, expected = (
        ("doctor", f"PYTHON={folder}/other", "FLAGS=--json"),
        "-m twinspire.serving.doctor --json",
    )
    after = make(folder, *arguments)
    shutil.rmtree(folder / ".venv")
    before = make(folder, *arguments)
    assert after.stdout.startswith(expected)
    version, shown = before.stdout.splitlines()
    assert version.startswith("-c import sys; sys.exit(sys.version_info < (3, 11))")
    assert shown.startswith(expected)


def test_doctor_refuses_a_python_that_is_too_old(folder: Path) -> None:
    (folder / "old").write_text('#!/bin/bash\n[ "$1" = --version ] && echo "Python 3.9.2" && exit\nexit 1\n')
    (folder / "old").chmod(0o755)
    done = make(folder, "doctor", f"PYTHON={folder}/old")
    assert done.returncode != 0
    assert f"needs Python 3.11 or newer; {folder}/old is Python 3.9.2" in done.stderr


def test_the_ui_of_a_tracking_server_is_its_own(installed: Path) -> None:
    done = make(installed, "ui", MLFLOW_TRACKING_URI="http://ann:secret@tracking.example:5000/")
    expected = "http://tracking.example:5000/#/experiments?workflowType=machine_learning\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", expected)


def test_the_address_of_the_ui_opens_the_view_for_models(folder: Path) -> None:
    install(folder, "#!/bin/sh\nexit 0\n", "mlflow")
    done = make(folder, "ui", "UI_PORT=5055", MLFLOW_TRACKING_URI="")
    assert done.stderr == "http://127.0.0.1:5055/#/experiments?workflowType=machine_learning\n"


@pytest.fixture
def checkout(empty_store: Path, tmp_path: Path) -> Path:
    """A copy of the checkout with its environment, and a champion in its registry."""
    import mlflow

    from tests.helpers import releases
    from tests.helpers.stdlib import tracking_at

    copy = tmp_path / "checkout"
    for name in ("protos", "serving", "train", "export"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, copy)
    (copy / "tiny.toml").write_text(f'name = "{releases.NAME}"\n')
    (copy / ".venv").mkdir()
    for each in Path(sys.prefix).iterdir():
        (copy / ".venv" / each.name).symlink_to(each)
    (copy / ".venv" / ".installed").unlink(missing_ok=True)
    (copy / ".venv" / ".installed").touch()
    (copy / "mlruns").mkdir()
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, copy / 'mlruns')}"):
        releases.register(tmp_path / "bundles", 1)
        mlflow.MlflowClient().set_registered_model_alias(releases.NAME, CHAMPION, "1")
    return copy


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is kept for the server of the test."""
    with held_port() as number:
        yield number


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::Warning:mlflow")
def test_serve_mlflow_answers_from_a_fresh_shell(checkout: Path, port: int) -> None:
    command = ["make", "serve-mlflow", "CONFIG=tiny.toml", f"MODEL_PORT={port}"]
    fresh = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(checkout.parent), "LANG": "C.UTF-8"}

    def post(**asked: Any) -> tuple[int, Any]:
        body, kind = json.dumps(asked).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, kind)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def answers() -> bool:
        assert process.poll() is None, (checkout.parent / "log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    with (checkout.parent / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=checkout, env=fresh, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(answers, 100)
        status, found = post(inputs=["bavuti xelike mopy"], params={"k": 3})
        assert (status, len(found["predictions"][0])) == (200, 3)
        for asked, told in (
            ({"params": {"k": -1}}, "k: expected"),
            ({"params": {"fusion": "both"}}, "fusion: expected default, dense, lexical, hybrid, got 'both'"),
            ({"inputs": [{"text": "bavuti", "colour": "red"}]}, "colour"),
        ):
            status, found = post(**{"inputs": ["bavuti"], **asked})
            assert status == 400
            assert told in found["message"]
            assert "Traceback" not in json.dumps(found)
            assert "stack_trace" not in found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    assert not list(checkout.glob("mlflow.db"))
