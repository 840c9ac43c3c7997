"""All programs: what a command imports, how a typing error is answered, `--version`, and shell completion."""

import contextlib
import gc
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.tiny import tiny_bundle
from twinspire.export.__main__ import COMMANDS, find
from twinspire.protos import __version__
from twinspire.protos.cli import add_command, as_typed, command_line
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
from twinspire.train.cli import DEFAULT_CONFIG

ROOT = Path(__file__).parents[1]
PROGRAMS = ("train", "export", "serving", "serving.client")
HEAVY = {
    "bm25s",
    "hnswlib",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "torch",
}
MLFLOW = {"mlflow", "pandas", "polars", "pyarrow", "scipy", "sqlalchemy"}  # and what it imports itself

# Runs a program, then prints on the last line which modules it has imported.
RUN = """
import json, runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit as ended:
    code = ended.code
print(json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def imported(program: str, *arguments: str) -> set[str]:
    """The packages of `HEAVY` that a command imports; the command has to succeed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['', 'twinspire.{program}', *{arguments!r}]\n{RUN}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    return HEAVY & {*found["modules"]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_nothing_that_takes_long(program: str) -> None:
    assert imported(program, "--help") == set()


@pytest.mark.exhaustive
def test_a_command_that_asks_a_server_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    with RetrievalServer(Retriever.load(tiny_bundle(tmp_path))) as server:
        for command in (["search", "bavuti"], ["status"], ["info"]):
            assert imported("serving", *command, "--address", server.address) == set(), command


def test_commands_are_imported_without_garbage_collections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_command.py").write_text("import gc\nfound = gc.isenabled()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(
        sys.modules, "imported_command", sys
    )  # so that the end of the test removes the module
    monkeypatch.delitem(sys.modules, "imported_command")
    before = gc.get_freeze_count()
    assert find("imported_command:found") is False
    assert gc.isenabled()
    assert gc.get_freeze_count() > before  # later collections do not scan what was imported


@pytest.mark.exhaustive
def test_history_imports_mlflow_and_nothing_else_that_takes_long(store: str) -> None:
    assert imported("export", "history") <= MLFLOW


@pytest.mark.parametrize("name", COMMANDS)
def test_the_functions_of_a_command_exist(name: str) -> None:
    assert callable(find(COMMANDS[name].run))
    assert callable(find(COMMANDS[name].show))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("train fit | --reusme", "--reusme: no such option; did you mean --resume?"),
        ("train | fti", "invalid choice: 'fti'"),
        ("train | fti", "did you mean fit?"),
        ("export promote | --focre", "--focre: no such option; did you mean --force?"),
        ("serving serve | --metric-port 1", "did you mean --metrics-port?"),
        ("serving | serach a", "did you mean search?"),
        ("serving token | --nam a", "--nam: no such option; did you mean --name?"),
        ("serving status | --xyzzy", "error: --xyzzy: no such option\n"),
        ("serving status | here", "error: unrecognized arguments: here\n"),
        ("serving.client info | --adress a", "did you mean --address?"),
        ("serving.client items | upsrt a", "did you mean upsert?"),
        ("serving.bundles | --versoin", "--versoin: no such option"),
    ],
)
def test_a_typing_error_is_answered_with_the_usage_and_the_name_that_was_meant(
    typed: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known, wrong = typed.split(" | ")
    program, *_ = command = known.split()
    monkeypatch.setattr(sys, "argv", [*command, *wrong.split()])
    with pytest.raises(SystemExit) as ended:
        main_of(program)()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: python -m twinspire.{known} [-h]")
    assert expected in said


def test_arguments_that_contradict_each_other_are_answered_with_the_usage_of_their_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ("serving serve --burst 5", "export promote --force"):
        program, *arguments = typed.split()
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit):
            main_of(program)()
        assert capsys.readouterr().err.startswith(f"usage: python -m twinspire.{program} {arguments[0]} ")


def test_a_value_that_looks_like_an_option_is_none() -> None:
    parser = command_line("program", None)
    command = add_command(parser.add_subparsers(), "go", "Go.", lambda arguments: None)
    command.add_argument("--reason")
    command.add_argument("words", nargs="*")
    assert parser.parse_args(["go", "--reason=--all", "--", "--none"]).words == ["--none"]
    assert parser.parse_args(["go", "--reason", "--all that is"]).reason == "--all that is"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_tells_its_version(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "--version"])
    with pytest.raises(SystemExit) as ended:
        main_of(program)()
    assert (ended.value.code, capsys.readouterr().out) == (0, f"Twinspire {__version__}\n")


@pytest.mark.parametrize(
    ("program", "line", "expected"),
    [
        ("serving", "twinspire-serving sear", "search"),
        ("serving", "twinspire-serving search --addr", "--address"),
        ("serving", "twinspire-serving token --role wr", "writer"),
        ("serving", "twinspire-serving items ups", "upsert"),
        ("train", "twinspire-train fit --resume-", "--resume-if-any"),
        ("export", "twinspire-export promote --fo", "--force"),
        ("serving.client", "twinspire-client batch quer", "queries.txt"),
    ],
)
def test_bash_completes_commands_options_values_and_files(
    program: str, line: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queries.txt").touch()
    script = tmp_path / "completion"
    monkeypatch.setattr(sys, "argv", [program, "--print-completion", "bash"])
    with script.open("w") as file, contextlib.redirect_stdout(file), pytest.raises(SystemExit) as ended:
        main_of(program)()
    assert not ended.value.code
    name, *words = line.split()
    bash = f"""
    source {script}
    function=$(complete -p {name} | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    COMP_WORDS=({line}) COMP_CWORD={len(words)} COMP_LINE='{line}' COMP_POINT={len(line)}
    $function {name} {words[-1]} {line.split()[-2]}
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", bash], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == [expected], done.stderr


def main_of(program: str) -> Callable[[], int]:
    module = program if program == "serving.bundles" else f"{program}.__main__"
    found: Callable[[], int] = importlib.import_module(f"twinspire.{module}").main
    return found


@pytest.mark.parametrize(
    ("make", "program", "expected"),
    [
        ("1", "/venv/bin/python", "make train CONFIG=a.toml RESUME=1"),
        ("", "train/__main__.py", "python -m twinspire.train fit --config a.toml --resume"),
        ("", "/usr/bin/twinspire-train", "twinspire-train fit --config a.toml --resume"),
    ],
)
def test_a_command_is_suggested_in_the_words_of_the_one_that_was_typed(
    make: str, program: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPIRE_MAKE", make)
    monkeypatch.setattr(sys, "argv", [program])
    assert as_typed("make train CONFIG=a.toml RESUME=1", "train", "fit --config a.toml --resume") == expected


def test_commands_take_the_experiment_that_make_takes() -> None:
    (named,) = re.findall(r"^CONFIG \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert ROOT / named == DEFAULT_CONFIG
