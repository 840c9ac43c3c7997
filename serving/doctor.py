"""Checks whether a machine can set up, train and serve: `make doctor`, `python -m twinspire.serving doctor`.

It runs before `make setup` too, so importing it takes the standard library alone. `serve` itself reports a
port that is in use, and a limit on open files that is too low.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import sysconfig
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from twinspire.protos.cli import Console, add_command, command_line, execute, print_result
from twinspire.protos.errors import MissingStage

OLDEST = (3, 11)
COMPILED = "hnswlib"  # built from source by `make setup`
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
CACHE, MLRUNS = Path(".cache"), Path("mlruns")
GIB = 1 << 30
MIN_FREE_BYTES, LOW_FREE_BYTES = 1 * GIB, 5 * GIB  # an environment takes 2 to 3 GiB, a bundle up to one
PINS = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)$", re.MULTILINE)
INSTALL_COMPILER = (
    "Debian, Ubuntu: apt-get install g++ python3-dev; Fedora: dnf install gcc-c++ python3-devel; "
)
INSTALL_COMPILER += "macOS: xcode-select --install"
OK, WARNING, PROBLEM = "ok", "warning", "problem"  # states of a finding; a problem has to be solved


class Finding(NamedTuple):
    """The result of one check.

    Args:
        state: how good or bad it is.
        check: its name.
        found: what was found, with units.
        todo: what to do; empty if nothing is to be done.
    """

    state: str
    check: str
    found: str
    todo: str = ""


ok, warning, problem = (partial(Finding, state) for state in (OK, WARNING, PROBLEM))


class PlainConsole:
    """A console without rich, which may not be installed yet."""

    def print(self, text: str) -> None:
        """Print a line."""
        sys.stdout.write(f"{text}\n")


def add_doctor(commands: Any) -> ArgumentParser:
    """Add `doctor` to the commands of a command line."""
    return add_command(commands, "doctor", "Check this machine, and say what to do.", doctor)


def doctor(arguments: Namespace) -> None:
    """Run all checks, and print what they find.

    Raises:
        MissingStage: something has to be done; it has been printed.
    """
    found = list(findings())
    problems = sum(each.state == PROBLEM for each in found)
    document = {"ok": not problems, "checks": [each._asdict() for each in found]}
    print_result((document, lambda console: _show(found, console)), arguments.json, PlainConsole)
    if problems:
        raise MissingStage(f"{problems} of {len(found)} checks found a problem")


def findings() -> Iterator[Finding]:
    """What each check finds, in the order in which a newcomer meets them."""
    yield python()
    yield compiler()
    yield packages(REQUIREMENTS, sys.prefix != sys.base_prefix)
    yield disk(Path(os.environ.get("TWINSPIRE_CACHE") or CACHE), "name another folder: TWINSPIRE_CACHE=...")
    yield disk(MLRUNS, "name another store: MLFLOW_TRACKING_URI=...")


def python() -> Finding:
    """The version of Python, and whether it can make environments."""
    found = platform.python_version()
    if sys.version_info[:2] < OLDEST:
        return problem("python", found, "needs 3.11 or newer: make setup PYTHON=python3.12")
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return problem("python", f"{found} cannot make environments", "apt-get install python3-venv")
    return ok("python", found)


def compiler() -> Finding:
    """A C++ compiler and the headers of Python, which `make setup` needs."""
    named = os.environ.get("CXX", "").strip() or "c++"
    path = next(filter(None, map(shutil.which, (named.split()[0], "g++"))), None)
    has_headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
    if path is not None and has_headers:
        return ok("compiler", path)
    lacking = "no C++ compiler" if path is None else "no headers of Python"
    if importlib.util.find_spec(COMPILED):  # nothing is left to compile
        return warning("compiler", f"{lacking}; {COMPILED} is built already", INSTALL_COMPILER)
    return problem("compiler", f"{lacking}; {COMPILED} is compiled here", INSTALL_COMPILER)


def packages(requirements: Path, is_set_up: bool) -> Finding:
    """The pinned packages.

    Args:
        requirements: the file with the pins; where there is none, the package was installed without pins.
        is_set_up: whether this Python is that of an environment; before, packages may be missing.
    """
    if not requirements.is_file():
        return ok("packages", f"no {requirements.name} here: not a checkout")
    pins = PINS.findall(requirements.read_text())
    found = {name: _version(name) for name, _ in pins}
    missing = [name for name, version in found.items() if version is None]
    other = [f"{name} {found[name]}, not {pin}" for name, pin in pins if found[name] not in (None, pin)]
    if not is_set_up and len(missing) > len(pins) / 2:
        todo = "make setup, which make demo runs, too"
        return warning("packages", f"{len(missing)} of {len(pins)} to install", todo)
    if missing:
        return problem(
            "packages", f"{len(missing)} of {len(pins)} missing: {', '.join(missing)}", "make setup"
        )
    if other:
        return warning("packages", f"{len(other)} of {len(pins)} differ: {', '.join(other)}", "make setup")
    return ok("packages", f"{len(pins)} as pinned")


def disk(folder: Path, otherwise: str) -> Finding:
    """Room where data sets, bundles and runs are written.

    Args:
        otherwise: what to do where there is none.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:,.1f} GiB free for {folder}"
    if not os.access(place, os.W_OK):
        return problem("disk", f"{place} cannot be written", otherwise)
    if free < MIN_FREE_BYTES:
        return problem("disk", found, f"make room, or {otherwise}")
    if free < LOW_FREE_BYTES:
        return warning("disk", found, "`make setup` and large data sets need 5 GiB; `make clean` makes room")
    return ok("disk", found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _show(found: list[Finding], console: Console) -> None:
    wide = max(len(each.check) for each in found)
    for each in found:
        console.print(f"{each.state:<8} {each.check:<{wide}}  {each.found}")
        if each.todo:
            console.print(f"{'':<8} {'':<{wide}}  -> {each.todo}")


def main() -> int:
    """Run `doctor` alone, for a Python that has no packages yet.

    Returns:
        0 if nothing is wrong, 1 if something has to be done, 2 on wrong arguments.
    """
    parser = command_line("python -m twinspire.serving", "Check this machine.")
    add_doctor(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    return execute(parser, ["doctor", *sys.argv[1:]], console=PlainConsole)


if __name__ == "__main__":
    sys.exit(main())
