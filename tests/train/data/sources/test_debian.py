"""apt's lists become items; nothing here touches the network."""

import contextlib
import io
import stat
from pathlib import Path

import pytest
from rich.console import Console

from twinspire.protos.errors import DataError
from twinspire.train.data.source import Tables
from twinspire.train.data.sources import debian

PACKAGES = """\
Package: eigen-tool
Source: eigen (3.4.0-2)
Version: 3.4.0-2+b1
Description: compute eigenvalues on the command line
Description-md5: aaa
Tag: role::program,
 use::analysing
Section: math
Priority: optional
Installed-Size: 120

Package: eigen-tool
Version: 3.3.0-1
Description: compute eigenvalues on the command line
Description-md5: aaa
Section: math

Package: zz-eigen-alias
Description: compute eigenvalues on the command line
Description-md5: aaa
Section: oldlibs

Package: paint
Version: 1.0-1
Description: Simple Drawing program
Description-md5: bbb
Section: graphics

Package: echo-echo
Description: program that says it twice
Description-md5: ccc
Section: misc

Package: nothing-long
Description: package without a translation
Description-md5: ddd
Section: misc
"""

TRANSLATION = """\
Package: eigen-tool
Description-md5: aaa
Description-en: compute eigenvalues on the command line
 Reads a matrix from standard input
 and prints what a linear algebra course asks for.
 .
 Works on sparse input, too.

Package: paint
Description-md5: bbb
Description-en: Simple Drawing program
 This is a simple drawing  program for children of every age.

Package: echo-echo
Description-md5: ccc
Description-en: program that says it twice
 Program that says it twice.
"""

NO_CONSOLE = Console(file=io.StringIO())


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    (tmp_path / "Packages").write_text(PACKAGES)
    (tmp_path / "Translation-en").write_text(TRANSLATION)
    return debian.AptLists((tmp_path / "Packages",), (tmp_path / "Translation-en",), "0" * 64).read()


def test_a_short_description_is_the_query_for_the_long_one(tables: Tables) -> None:
    item, pair = tables.items.row(0, named=True), tables.pairs.collect().row(0, named=True)
    assert item == {
        "item_id": "eigen-tool",
        "name": "eigen-tool",
        "section": "math",
        "priority": "optional",
        "installed_size": 120,
        "text": "Reads a matrix from standard input and prints what a linear algebra course asks for. "
        "Works on sparse input, too.",
        "full_text": "eigen-tool compute eigenvalues on the command line Reads a matrix from standard "
        "input and prints what a linear algebra course asks for. Works on sparse input, too.",
    }
    assert pair == {
        "query": "compute eigenvalues on the command line",
        "item_row": 0,
        "weight": 1.0,
        "group": "eigen",
    }


def test_a_long_description_loses_the_short_one(tables: Tables) -> None:
    assert tables.items["text"][1] == "This is a for children of every age."
    assert "Simple Drawing program" in tables.items["full_text"][1]
    assert tables.changed == {"query cut out of the text that repeats it": 1}


def test_dropped_packages_are_counted(tables: Tables) -> None:
    assert tables.dropped == {
        "another version of a package already read": 1,
        "description of a package already read": 1,
        "package without an English short and long description": 1,
        "text too short, or still with its query, after the query was cut out": 1,
    }


def test_without_apt_the_message_says_what_to_use_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r'no apt-get here.*"pydocs".*"files"'):
        debian.fetch_lists(tmp_path / "apt", NO_CONSOLE)


def write_apt(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a fake `apt-get` first on the PATH."""
    folder.mkdir()
    path = folder / "apt-get"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_error_of_apt_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_apt(tmp_path / "bin", monkeypatch, 'echo "E: no space left" >&2; exit 100')
    with pytest.raises(DataError, match=r"apt-get .* failed: E: no space left"):
        debian.fetch_lists(tmp_path / "apt", NO_CONSOLE)


def test_apt_without_descriptions_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_apt(tmp_path / "bin", monkeypatch, 'echo "W: cannot reach the archive" >&2')
    with pytest.raises(DataError, match=r'"pydocs".*cannot reach the archive'):
        debian.fetch_lists(tmp_path / "apt", NO_CONSOLE)


def test_lists_are_fetched_once_and_again_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt, log = tmp_path / "apt", tmp_path / "log"
    lists = apt / "state" / "lists"
    write_apt(
        tmp_path / "bin",
        monkeypatch,
        f"""
echo "$@" >> {log}
if [ "$1" = update ]; then
  printf 'Package: a\\n' > {lists}/Packages; printf 'Package: a\\n' > {lists}/Translation-en
  printf 'Package: a\\n' > {lists}/Other
else
  printf 'Packages\\tDebian\\tmain\\tscheme://archive\\t$(LANGUAGE)\\t{lists}/Packages\\n'
  printf 'Translations\\tDebian\\tmain\\tscheme://archive\\ten\\t{lists}/Translation-en\\n'
  printf 'Translations\\tDebian\\tmain\\tscheme://archive\\tde\\t{lists}/Other\\n'
  printf 'Packages\\tDebian\\tcontrib\\tscheme://archive\\t$(LANGUAGE)\\t{lists}/Other\\n'
  printf 'Packages\\tElsewhere\\tmain\\tscheme://archive\\t$(LANGUAGE)\\t{lists}/Other\\n'
  printf 'Packages\\tDebian\\tmain\\tfile:/here\\t$(LANGUAGE)\\t{lists}/Other\\n'
fi""",
    )
    first = debian.fetch_lists(apt, NO_CONSOLE)
    assert [path.name for path in first.packages] == ["Packages"]
    assert [path.name for path in first.translations] == ["Translation-en"]
    assert debian.fetch_lists(apt, NO_CONSOLE) == first
    assert log.read_text().count("update") == 1
    assert "Acquire::Languages=en" in log.read_text()
    assert debian.fetch_lists(apt, NO_CONSOLE, refresh=True) == first
    assert log.read_text().count("update") == 2


def test_versions_of_one_source_are_one_group() -> None:
    assert debian.source_family("gcc-13") == debian.source_family("gcc-14") == "gcc-"
    assert debian.source_family("python3.11") == "python"
    assert debian.source_family("2048") == "2048"


def script_of(apt: Path, log: Path, after: str = ":") -> str:
    """Of an `apt-get` that fetches two lists, and runs a command after each update."""
    return f"""
if [ "$1" = update ]; then
  echo update >> {log}; printf 'Package: a\\n' > {apt}/Packages; printf 'Package: a\\n' > {apt}/Translation-en
  {after}
else
  printf 'Packages\\tDebian\\tmain\\tscheme://archive\\ten\\t{apt}/Packages\\n'
  printf 'Translations\\tDebian\\tmain\\tscheme://archive\\ten\\t{apt}/Translation-en\\n'
fi"""


def test_a_list_that_is_missing_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt, log = tmp_path / "apt", tmp_path / "log"
    write_apt(tmp_path / "bin", monkeypatch, script_of(apt, log))
    known = debian.fetch_lists(apt, NO_CONSOLE)
    identity = known.identity()
    assert known.read().origin["apt_lists_sha256"] == identity
    with (apt / "Packages").open("a") as file:
        file.write("\nPackage: more\n")
    assert debian.fetch_lists(apt, NO_CONSOLE).identity() != identity
    assert known.read().origin["apt_lists_sha256"] == known.identity() == identity
    (apt / "Packages").unlink()
    assert debian.fetch_lists(apt, NO_CONSOLE).identity() == identity
    assert log.read_text() == "update\n" * 2


@pytest.mark.parametrize(
    ("fault", "updates"),
    [
        ("echo 'E: interrupted' >&2; exit 100", 3),
        ("echo 'W: Some index files failed to download. They have been ignored.' >&2", 3),
        ("", 2),
    ],
)
def test_an_update_that_was_not_whole_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, updates: int
) -> None:
    apt, log = tmp_path / "apt", tmp_path / "log"
    after = f'if [ "$(wc -l < {log})" = 2 ]; then {fault or ":"}; fi'
    write_apt(tmp_path / "bin", monkeypatch, script_of(apt, log, after))
    debian.fetch_lists(apt, NO_CONSOLE)
    console = Console(file=io.StringIO())
    with contextlib.suppress(DataError):
        debian.fetch_lists(apt, console, refresh=True)
    assert ("could not be fetched" in console.file.getvalue()) == ("W:" in fault)  # type: ignore[attr-defined]
    for _ in range(2):
        debian.fetch_lists(apt, NO_CONSOLE)
    assert log.read_text() == "update\n" * updates
