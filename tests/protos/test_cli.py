"""One command, one result on stdout; errors on stderr; exit codes."""

import errno
import gc
import importlib
import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest

from twinspire.protos import __version__
from twinspire.protos.cli import (
    Result,
    UsageError,
    add_command,
    command_line,
    document_command,
    execute,
    gc_paused,
    imports_frozen,
    print_result,
)
from twinspire.protos.errors import ConfigError, DataError, TwinspireError

Capture = pytest.CaptureFixture[str]


def test_only_the_first_import_of_a_module_excludes_objects_from_collections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_once.py").write_text("made = []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "imported_once", sys)  # so that the end of the test removes the module
    monkeypatch.delitem(sys.modules, "imported_once")

    def is_scanned(made: object) -> bool:
        return any(each is made for each in gc.get_objects())

    with imports_frozen():
        assert not gc.isenabled()
        made = importlib.import_module("imported_once").made
    assert gc.isenabled()
    assert not is_scanned(made)
    with imports_frozen():
        importlib.import_module("imported_once")
        later: list[object] = []
    assert is_scanned(later)
    with pytest.raises(ModuleNotFoundError), imports_frozen():
        failed: list[object] = []
        importlib.import_module("imported_never")
    assert gc.isenabled()
    assert is_scanned(failed)


def test_collection_is_paused_for_a_block_and_no_longer() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), gc_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()


class Paper:
    """Stands for a console."""

    def print(self, text: str) -> None:
        sys.stdout.write(f"shown: {text}\n")


def run(command: Any, *arguments: str, **options: Any) -> int:
    parser = ArgumentParser()
    add_command(parser.add_subparsers(required=True), "go", "Go.", command)
    return execute(parser, ["go", *arguments], console=Paper, **options)


def fails(error: BaseException) -> Any:
    def command(arguments: Namespace) -> Result:
        raise error

    return command


def greeting(arguments: Namespace) -> Result:
    return {"text": "grüße"}, lambda console: console.print("grüße")


def test_a_result_is_shown_or_printed_as_one_json_document(capsys: Capture) -> None:
    assert run(greeting) == 0
    assert capsys.readouterr() == ("shown: grüße\n", "")
    assert run(greeting, "--json") == 0
    assert capsys.readouterr() == ('{"text": "grüße"}\n', "")


def test_a_command_may_print_its_result_itself(capsys: Capture) -> None:
    def command(arguments: Namespace) -> None:
        print_result(greeting(arguments), arguments.json, Paper)

    assert run(command, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"text": "grüße"}


def test_a_command_may_have_any_option_such_as_run(capsys: Capture) -> None:
    parser = ArgumentParser()
    command = add_command(parser.add_subparsers(dest="command"), "go", "Go.", greeting)
    command.add_argument("--run", default="")
    assert execute(parser, ["go", "--run", "abc"], console=Paper) == 0
    assert capsys.readouterr().out == "shown: grüße\n"


def test_what_a_library_prints_does_not_mix_with_the_document(capsys: Capture) -> None:
    def command(arguments: Namespace) -> dict[str, Any]:
        sys.stdout.write("a library's notice\n")
        return {"n": 1}

    shown = document_command(command, lambda document, console: console.print(str(document["n"])))
    assert run(shown) == 0
    assert capsys.readouterr() == ("shown: 1\n", "a library's notice\n")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (TwinspireError("no luck"), 1, "error: no luck\n"),
        (DataError("row 3"), 1, "error: row 3\n"),
        (ConfigError("a.toml: no name"), 1, "error: a.toml: no name\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("stopped; --resume goes on"), 130, "stopped; --resume goes on\n"),
    ],
)
def test_a_failure_is_one_line_on_stderr_and_an_exit_code(
    capsys: Capture, error: BaseException, code: int, text: str
) -> None:
    assert run(fails(error), "--json") == code
    assert capsys.readouterr() == ("", text)


def test_an_entry_point_says_which_errors_are_wrong_usage(capsys: Capture) -> None:
    for error, code in ((ConfigError("a.toml: no name"), 2), (DataError("row 3"), 1)):
        assert run(fails(error), usage_errors=(ConfigError,)) == code
        assert capsys.readouterr() == ("", f"error: {error}\n")


def test_arguments_that_contradict_each_other_end_as_unknown_ones_do(capsys: Capture) -> None:
    for command, arguments in ((fails(UsageError("--a goes with --b")), []), (greeting, ["--jso"])):
        with pytest.raises(SystemExit) as caught:
            run(command, *arguments)
        assert caught.value.code == 2
    assert "--a goes with --b" in capsys.readouterr().err


def test_a_full_disk_is_named_and_another_error_is_not_hidden(capsys: Capture, tmp_path: Any) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    named = OSError(errno.EFBIG, "File too large", "a.bin")
    locked = RuntimeError("(sqlite3.OperationalError) database or disk is full")
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = full
    for error, expected in (
        (full, f"error: a file below {tmp_path}: cannot be written: No space left on device; "),
        (named, "error: a.bin: cannot be written: File too large; "),
        (locked, "error: the database of MLflow cannot be written: database or disk is full; "),
        (wrapped, f"error: a file below {tmp_path}: cannot be written: No space left"),
    ):
        assert run(fails(error), folder=tmp_path) == 1
        assert capsys.readouterr().err.startswith(expected)
    with pytest.raises(PermissionError):
        run(fails(PermissionError(errno.EACCES, "Permission denied")))


def test_a_program_tells_its_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line("python -m something", None).parse_args(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"Twinspire {__version__}\n"


PROGRAM = """
import sys
from rich.console import Console
from twinspire.protos.cli import add_command, command_line, execute

def run(arguments):
    if arguments.command == "lines":
        for number in range(300_000):
            print(number)
        return None
    if arguments.command == "late":
        print("one line, which is written when the program ends")
        return None
    if arguments.command == "socket":
        raise BrokenPipeError(32, "a connection")
    document = {"text": "a line\\n" * 40_000}
    return document, lambda console: console.print(document["text"], highlight=False)

parser = command_line("test", None)
commands = parser.add_subparsers(dest="command")
for name in ("lines", "late", "socket", "result"):
    add_command(commands, name, None, run)
sys.exit(execute(parser, console=Console))
"""


@pytest.mark.parametrize("arguments", [["lines"], ["late"], ["result"], ["result", "--json"]], ids=" ".join)
def test_a_command_ends_quietly_if_the_reader_closes_its_output(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], stdout=closed, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_broken_pipe_that_is_not_the_output_is_not_hidden() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "socket"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("BrokenPipeError: [Errno 32] a connection\n")
