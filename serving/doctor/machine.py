"""Checks of the machine: Python, compiler, packages, disk, huge pages, file descriptors."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from serving.doctor.finding import Finding, ok, problem, warning

OLDEST, NEWEST = (3, 11), (3, 13)  # Pythons that the tests run on
COMPILED = "hnswlib"  # built from source by `make setup`
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GIB = 1 << 30
MIN_FREE_BYTES, LOW_FREE_BYTES = 1 * GIB, 5 * GIB  # an environment takes 2 to 3 GiB, a bundle up to one
PINS = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)$", re.MULTILINE)
SHOWN = 3  # packages that a text names
INSTALL_COMPILER = (
    "Debian, Ubuntu: apt-get install g++ python3-dev; Fedora: dnf install gcc-c++ python3-devel; "
)
INSTALL_COMPILER += "macOS: xcode-select --install"


def python() -> Finding:
    """The version of Python, and whether it can make environments."""
    found = platform.python_version()
    if sys.version_info[:2] < OLDEST:
        return problem("python", found, "needs 3.11 or newer: make setup PYTHON=python3.12")
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return problem("python", f"{found} cannot make environments", "apt-get install python3-venv")
    if sys.version_info[:2] > NEWEST:
        return warning("python", f"{found}, newer than the tests run on", "PYTHON=python3.13 is tested")
    return ok("python", found)


def compiler() -> Finding:
    """A C++ compiler and the headers of Python, which `make setup` needs."""
    named = os.environ.get("CXX", "").strip() or "c++"
    path = next(filter(None, map(shutil.which, (named.split()[0], "g++"))), None)
    has_headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
    if path is None or not has_headers:
        lacking = "no C++ compiler" if path is None else "no headers of Python"
        if importlib.util.find_spec(COMPILED):  # nothing is left to compile
            return warning("compiler", f"{lacking}; {COMPILED} is built already", INSTALL_COMPILER)
        return problem("compiler", f"{lacking}; {COMPILED} is compiled here", INSTALL_COMPILER)
    try:
        tried = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:  # such as a program for another processor
        return problem("compiler", f"{path} fails: {error.strerror}", INSTALL_COMPILER)
    if tried.returncode:
        return problem("compiler", f"{path} fails: {tried.stderr.strip()[:200]}", INSTALL_COMPILER)
    return ok("compiler", tried.stdout.partition("\n")[0] or path)


def packages(requirements: Path) -> Finding:
    """The pinned packages.

    Args:
        requirements: the file with the pins; where there is none, the package was installed without pins.
    """
    if not requirements.is_file():
        return ok("packages", f"no {requirements.name} here: not a checkout")
    pins = PINS.findall(requirements.read_text())
    found = {name: _version(name) for name, _ in pins}
    missing = [name for name, version in found.items() if version is None]
    other = [f"{name} {found[name]}, not {pin}" for name, pin in pins if found[name] not in (None, pin)]
    if missing:
        return problem("packages", f"{len(missing)} of {len(pins)} missing: {_few(missing)}", "make setup")
    if other:
        return warning("packages", f"{len(other)} of {len(pins)} differ: {_few(other)}", "make setup")
    return ok("packages", f"{len(pins)} as pinned")


def disk(folder: Path) -> Finding:
    """Room where data sets, bundles and runs are written."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:,.1f} GiB free for {folder}"
    if not os.access(place, os.W_OK):
        return problem("disk", f"{place} cannot be written", "name another folder: TWINSPIRE_CACHE=...")
    if free < MIN_FREE_BYTES:
        return problem("disk", found, "make room, or name another folder: TWINSPIRE_CACHE=...")
    if free < LOW_FREE_BYTES:
        return warning("disk", found, "`make setup` and large data sets need 5 GiB; `make clean` makes room")
    return ok("disk", found)


def huge_pages(setting: Path = HUGE_PAGES) -> Finding:
    """Whether Linux gives programs huge pages; with them queries take 6 to 9 % less time."""
    try:
        chosen = re.findall(r"\[(\w+)\]", setting.read_text())
    except OSError:
        return ok("huge pages", "this system has none to ask for")
    if chosen == ["never"]:
        todo = f"echo madvise | sudo tee {setting}: queries take 6 to 9 % less time"
        return warning("huge pages", "never", todo)
    return ok("huge pages", chosen[0] if chosen else "unknown")


def descriptors(needed: int) -> Finding:
    """The hard limit on open files of a process, to which the service raises its soft limit.

    Args:
        needed: descriptors that a worker may need, for its connections and other files.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= needed:
        return ok("descriptors", "no limit" if most == resource.RLIM_INFINITY else f"{most:,} a process")
    todo = f"ulimit -Hn {needed} before the service starts, or LimitNOFILE={needed} in its unit"
    return warning("descriptors", f"{most:,} a process; a worker may need {needed:,}", todo)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _few(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
