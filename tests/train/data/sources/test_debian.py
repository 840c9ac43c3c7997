"""apt's lists become items; nothing here touches the network."""

import io
import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from twinspire.protos.errors import DataError
from twinspire.train.data.source import Tables
from twinspire.train.data.sources import debian
from twinspire.train.paths import ROOT

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


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "Packages").write_text(PACKAGES)
    (folder / "Translation-en").write_text(TRANSLATION)
    identity = debian._identity([folder / "Packages", folder / "Translation-en"])
    index = {"packages": ["Packages"], "translations": ["Translation-en"], "sha256": identity}
    (folder / debian.LISTS).write_text(json.dumps(index))


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    write_lists(tmp_path / "apt")
    return debian.fetch_lists(tmp_path / "apt", NO_CONSOLE).read()


def test_a_short_description_is_the_query_for_the_long_one(tables: Tables) -> None:
    item, pair = tables.items.row(0, named=True), tables.pairs.row(0, named=True)
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


def test_a_package_without_a_source_field_is_its_own_source(tables: Tables) -> None:
    assert tables.pairs["group"].to_list() == ["eigen", "paint"]


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


def test_stanzas_keep_the_lines_of_a_field_apart() -> None:
    found = list(debian.stanzas("A: 1\nB: x\n y\n .\n z\n\n\nA: 2\n".splitlines(keepends=True)))
    assert found == [{"A": "1", "B": "x\ny\n.\nz"}, {"A": "2"}]


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
    with pytest.raises(DataError, match="apt-get update failed: E: no space left"):
        debian.fetch_lists(tmp_path / "apt", NO_CONSOLE)


def test_apt_without_descriptions_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_apt(tmp_path / "bin", monkeypatch, 'echo "W: cannot reach the archive" >&2')
    with pytest.raises(DataError, match=r'"pydocs".*cannot reach the archive'):
        debian.fetch_lists(tmp_path / "apt", NO_CONSOLE)
    assert not (tmp_path / "apt" / debian.LISTS).exists()


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


def test_lists_of_a_mirror_on_a_port_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = tmp_path / "apt" / "state" / "lists"
    packages = lists / "localhost:3142_debian_dists_bookworm_main_binary-amd64_Packages"
    translations = lists / "localhost:3142_debian_dists_bookworm_main_i18n_Translation-en"
    write_apt(
        tmp_path / "bin",
        monkeypatch,
        f"""
if [ "$1" = update ]; then
  printf 'Package: a\\n' > {packages}; printf 'Package: a\\n' > {translations}
else
  printf 'Packages\\tDebian\\tmain\\thttp://localhost:3142/debian\\t\\t{packages}\\n'
  printf 'Translations\\tDebian\\tmain\\thttp://localhost:3142/debian\\ten\\t{translations}\\n'
fi""",
    )
    found = debian.fetch_lists(tmp_path / "apt", NO_CONSOLE)
    assert (found.packages, found.translations) == ((packages,), (translations,))
    assert debian.fetch_lists(tmp_path / "apt", NO_CONSOLE) == found


def fetching_apt(folder: Path, apt: Path, before: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `apt-get` that fetches two new lists; the path of the log of its steps.

    Args:
        before: shell commands that it runs when the first list is there and the second is not.
    """
    log = folder / "log"
    script = f"""
if [ "$1" = update ]; then
  echo begin >> {log}; printf 'Package: new\\n' > {apt}/Packages
  {before}
  printf 'Package: new\\n' > {apt}/Translation-en; echo end >> {log}
else
  printf 'Packages\\tDebian\\tmain\\tscheme://archive\\ten\\t{apt}/Packages\\n'
  printf 'Translations\\tDebian\\tmain\\tscheme://archive\\ten\\t{apt}/Translation-en\\n'
fi"""
    write_apt(folder / "bin", monkeypatch, script)
    return log


@pytest.mark.parametrize("name", ["Packages", "Translation-en"])
def test_a_list_that_is_missing_or_altered_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    apt = tmp_path / "apt"
    write_lists(apt)
    log = fetching_apt(tmp_path, apt, "", monkeypatch)
    known = debian.fetch_lists(apt, NO_CONSOLE)
    assert not log.exists()
    with (apt / name).open("a") as file:
        file.write("\nPackage: more\n")
    altered = debian.fetch_lists(apt, NO_CONSOLE)
    assert altered.sha256 == altered.identity() != known.sha256
    (apt / name).unlink()
    assert debian.fetch_lists(apt, NO_CONSOLE) == altered
    assert log.read_text() == "begin\nend\n" * 2


def test_a_killed_refresh_is_repeated_after_its_apt_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = tmp_path / "apt"
    write_lists(apt)
    killed = tmp_path / "killed"
    kill = f"[ -e {killed} ] || {{ touch {killed}; kill -9 $PPID; sleep 1; }}"
    log = fetching_apt(tmp_path, apt, kill, monkeypatch)
    code = (
        "import sys\nfrom pathlib import Path\nfrom rich.console import Console\n"
        "from twinspire.train.data.sources import debian\n"
        "debian.fetch_lists(Path(sys.argv[1]), Console(stderr=True), refresh=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(apt)], cwd=ROOT, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    found = debian.fetch_lists(apt, NO_CONSOLE)
    assert found.sha256 == found.identity()
    assert log.read_text() == "begin\nend\n" * 2


def test_versions_of_one_source_are_one_group() -> None:
    assert debian.source_family("gcc-13") == debian.source_family("gcc-14") == "gcc-"
    assert debian.source_family("python3.11") == "python"
    assert debian.source_family("2048") == "2048"
