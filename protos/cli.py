"""Runs one command of a command line: its result goes to stdout, everything else to stderr.

    parser = command_line("python -m twinspire.serving.client", "Query a server.")
    commands = parser.add_subparsers(required=True)
    add_command(commands, "info", "Ask a server what it serves.", info)
    sys.exit(execute(parser, console=Console))

The notes of an error (PEP 678) are printed below it; they say what to do.

A command returns a document, which `--json` prints, and a function that shows it to a person on a rich
console. The entry point supplies the console, because this package does not depend on rich.
"""

import contextlib
import errno
import gc
import json
import os
import select
import sys
from argparse import Action, ArgumentError, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from twinspire.protos import __version__
from twinspire.protos.errors import TwinspireError
from twinspire.protos.names import near

Console = Any  # a rich.console.Console
Document = dict[str, Any]
Result = tuple[Document, Callable[[Console], None]]
Command = Callable[[Namespace], Result | None]

FAILED, MISUSED = 1, 2  # exit codes; argparse exits with 2, too
# As a shell reports them: 128 and the number of the signal, of SIGPIPE if the reader of stdout has closed it.
INTERRUPTED, OUTPUT_CLOSED, TERMINATED = 130, 141, 143
INSTALLED = "twinspire-"  # how the names of installed programs begin
UNDER_MAKE = "TWINSPIRE_MAKE"  # environment variable that the Makefile sets
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, in the quota, within `ulimit -f`
# Control characters may command a terminal, or hide what was printed before: they are shown as U+FFFD, and
# white space as a blank. `CONTROLS_IN_LINES` keeps line breaks and tabs.
CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "�") | dict.fromkeys(b"\t\n\v\f\r", " ")
CONTROLS_IN_LINES = {code: shown for code, shown in CONTROLS.items() if code not in b"\t\n"}
SQLITE_NO_SPACE = ("database or disk is full", "disk I/O error")  # SQLAlchemy passes on the text of SQLite


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Garbage collection is off while the block runs, for imports.

    They make many objects that stay; to scan these takes a tenth of the time of `export history`.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def imports_frozen() -> Iterator[None]:
    """Garbage collection is off while a command imports, and later leaves out what was imported.

    Torch and MLflow make half a million objects that stay. Each full collection that scans them takes a third
    of a second. If the block has imported modules, all objects that exist after it, also older ones, are
    excluded from collections until the process ends; garbage among them is never freed.
    """
    gc.collect()  # garbage that is frozen would never be freed; before large imports this takes little time
    imported = len(sys.modules)
    with gc_paused():
        yield
    if len(sys.modules) > imported:
        gc.freeze()


class UsageError(Exception):
    """The arguments contradict each other; the process exits as it does for an unknown argument."""


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the command to stop."""


def as_typed(make: str, module: str, arguments: str) -> str:
    """A command to suggest, in the words of the one that was typed.

    Args:
        make: the command for `make`, which is returned if `make` started this process.
        module: the program otherwise, such as `serving`; or the installed program, if it was typed.
    """
    if os.environ.get(UNDER_MAKE):
        return make
    typed = Path(sys.argv[0]).name
    return f"{typed if typed.startswith(INSTALLED) else f'python -m twinspire.{module}'} {arguments}"


class CommandParser(ArgumentParser):
    """A parser, or a subcommand's: its errors show its own usage, and name what was probably meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; unknown ones are an error of the parser that meets them.

        Otherwise the outermost parser would report them, beside its own usage.
        """
        given = [*(sys.argv[1:] if args is None else args)]
        if self._subparsers is None:  # before argparse complains about the required option that was misspelt
            self._refuse(_unknown_options(given, self._option_string_actions))
        found, rest = super().parse_known_args(given, namespace)
        self._refuse(rest)
        return found, rest

    def _refuse(self, unknown: Sequence[str]) -> None:
        if not unknown:
            return
        name = unknown[0].partition("=")[0]
        if name.startswith("-"):
            self.error(f"{name}: no such option{near(name, self._option_string_actions)}")
        self.error(f"unrecognized arguments: {' '.join(unknown)}")

    def _check_value(self, action: Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except ArgumentError as error:
            raise ArgumentError(action, f"{error.message}{near(str(value), action.choices or ())}") from None


def _unknown_options(arguments: Sequence[str], known: Iterable[str]) -> list[str]:
    """The first argument that argparse takes for a long option, and that is none of the known ones."""
    for argument in arguments:
        if argument == "--":
            break
        name = argument.partition("=")[0]
        if argument.startswith("--") and " " not in name and name not in known:
            return [argument]
    return []


class _PrintCompletion(Action):
    """Prints a script that completes the program's commands and options in a shell."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: Any = None) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            parser.exit(FAILED, "error: --print-completion needs shtab; install it with: pip install shtab\n")
        for action in _actions(parser):
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        stage = parser.prog.removeprefix("python -m twinspire.").replace("serving.client", "client")
        parser.prog = f"{INSTALLED}{stage}"  # shells complete a program by its name
        sys.stdout.write(shtab.complete(parser, values) + "\n")
        parser.exit()


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """The arguments of a parser and of all its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _actions(command)


def command_line(program: str, description: str | None) -> ArgumentParser:
    """The parser of a program, without commands; it knows `--version` and `--print-completion`."""
    parser = CommandParser(program, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"Twinspire {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print a script by which a shell completes this command line, for the installed program",
    )
    return parser


def add_command(commands: Any, name: str, description: str | None, run: Command) -> ArgumentParser:
    """Add a subcommand with the option `--json`; its options cannot be abbreviated.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        run: returns the result, or None if it has already printed it.
    """
    command: ArgumentParser = commands.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run_command=run, command_parser=command)  # `run` is also an option of some commands
    return command


def document_command(
    run: Callable[[Namespace], Document | None], show: Callable[[Document, Console], None]
) -> Command:
    """A command from a function that returns the document, or None to print nothing, and one that shows it.

    While `run` runs, stdout is redirected to stderr: MLflow prints there, and the result may be piped.
    """

    def command(arguments: Namespace) -> Result | None:
        with contextlib.redirect_stdout(sys.stderr):
            document = run(arguments)
        return None if document is None else (document, lambda console: show(document, console))

    return command


def show_warnings(warnings: Iterable[str], console: Console) -> None:
    """Print each warning as a line of its own, as it is."""
    for text in warnings:
        console.print(f"warning: {text}", style="yellow", soft_wrap=True)


def printable(text: str) -> str:
    """A text from elsewhere as one line of the same length: control characters are replaced."""
    return text.translate(CONTROLS)


def print_result(result: Result, as_json: bool, console: Callable[[], Console]) -> None:
    """Write a result to stdout, as one line of JSON or as a person reads it."""
    document, show = result
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        output = console()
        output.on_broken_pipe = _raise_again  # a console of rich would end the process by itself
        show(output)


def _raise_again() -> None:
    """Raise the error that is being handled."""
    raise  # noqa: PLE0704  # rich calls this in its handler of a BrokenPipeError


def execute(
    parser: ArgumentParser,
    arguments: Sequence[str] | None = None,
    *,
    console: Callable[[], Console],
    folder: Path | None = None,
    usage_errors: tuple[type[TwinspireError], ...] = (),
) -> int:
    """Parse the arguments, run the command and print its result.

    Args:
        arguments: of the command line; `sys.argv[1:]` if None.
        folder: the folder that commands write to, for errors that do not name a file.
        usage_errors: errors for which the exit code is 2, as for wrong arguments.

    Returns:
        The exit code: 0 after success, or `exit_code` of the document, 1 after a failure, 2 after a usage
        error, 130 after an interrupt, 143 after `Terminated`, and 141 if the reader of stdout has closed it,
        as `| head -1` does.
        Wrong arguments end the process with 2.
    """
    parsed = parser.parse_args(arguments)
    try:
        code = _run(parsed, console, folder, usage_errors)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _discard_closed_output():  # another pipe or a connection
            raise
        return OUTPUT_CLOSED
    return code


def _run(
    parsed: Namespace,
    console: Callable[[], Console],
    folder: Path | None,
    usage_errors: tuple[type[TwinspireError], ...],
) -> int:
    try:
        result = parsed.run_command(parsed)
    except UsageError as error:
        parsed.command_parser.error(str(error))
    except TwinspireError as error:
        _print_error(str(error))
        for note in getattr(error, "__notes__", ()):
            sys.stderr.write(f"  {note.translate(CONTROLS_IN_LINES)}\n")
        return MISUSED if isinstance(error, usage_errors) else FAILED
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        sys.stderr.write(f"{str(error) or ('terminated' if terminated else 'interrupted')}\n")
        return TERMINATED if terminated else INTERRUPTED
    except Exception as error:
        reason = _no_space(error, folder)
        if reason is None:
            raise
        _print_error(
            f"{reason}; nothing half-written is used: free some space and run the same command again"
        )
        return FAILED
    if result is None:
        return 0
    print_result(result, parsed.json, console)
    return int(result[0].get("exit_code", 0))


def _discard_closed_output() -> bool:
    """Send later output to the null device if the reader of stdout has closed it; returns whether it has."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file of the system
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        return False
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), descriptor)
    return True


def _print_error(text: str) -> None:
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    line = f"error: {text.translate(CONTROLS_IN_LINES)}"
    sys.stderr.write(f"\x1b[31m{line}\x1b[0m\n" if red else f"{line}\n")


def _no_space(error: BaseException, folder: Path | None) -> str | None:
    """Which file could not be written because the disk is full; None if the error has another cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in NO_SPACE:
            file = seen.filename or (f"a file below {folder}" if folder else "a file")
            return f"{file}: cannot be written: {seen.strerror}"
        for text in SQLITE_NO_SPACE:
            if text in str(seen):
                return f"the database of MLflow cannot be written: {text}"
        seen = seen.__cause__ or seen.__context__
    return None
