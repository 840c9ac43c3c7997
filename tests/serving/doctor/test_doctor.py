"""`doctor`: each check finds what is wrong, and says what to do; the exit status follows."""

import contextlib
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.doctor import machine, settings
from serving.doctor.finding import Finding, FindingState
from serving.security.tokens import new_token
from tests.helpers.serving.certificates import Authority
from tests.serving.conftest import ROOT

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def shown(finding: Finding, state: str, *parts: str) -> bool:
    """Whether a finding is of a state, and its texts hold the parts."""
    assert finding.state == state, finding
    assert (finding.todo == "") == (state == "ok"), finding
    assert all(part in f"{finding.found} -> {finding.todo}" for part in parts), finding
    return True


def test_python(monkeypatch: Patch) -> None:
    assert shown(machine.python(), "ok", f"{sys.version_info.major}.{sys.version_info.minor}.")
    monkeypatch.setattr(machine, "NEWEST", (3, 10))
    assert shown(machine.python(), "warning", "newer than the tests run on")
    monkeypatch.setattr(machine, "OLDEST", (9, 0))
    assert shown(machine.python(), "problem", "3.11 or newer", "PYTHON=")
    monkeypatch.setattr(machine, "OLDEST", (3, 11))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert shown(machine.python(), "problem", "cannot make environments", "apt-get install python3-venv")


@pytest.mark.skipif(shutil.which("c++") is None, reason="c++ is not installed")
def test_a_compiler_that_works(monkeypatch: Patch) -> None:
    monkeypatch.setenv("CXX", "c++ -O2")
    if (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        assert shown(machine.compiler(), "ok")


def test_a_compiler_that_is_missing_or_fails(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shown(
        machine.compiler(), "warning", "no C++ compiler; hnswlib is built already", "apt-get install g++"
    )
    monkeypatch.setattr(machine, "COMPILED", "no_such_package")
    assert shown(machine.compiler(), "problem", "no C++ compiler", "apt-get install g++", "xcode-select")
    (tmp_path / "c++").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CXX", raising=False)
    assert shown(machine.compiler(), "problem", "fails: broken")
    (tmp_path / "c++").write_bytes(b"\0no program")
    assert shown(machine.compiler(), "problem", "fails: Exec format error")
    (tmp_path / "c++").write_bytes(b"#!/bin/sh\nprintf '\\377 1.0'\n")
    assert shown(machine.compiler(), "ok", " 1.0")
    (tmp_path / "Python.h").unlink()
    assert shown(machine.compiler(), "problem", "no headers of Python", "python3-dev")


def test_packages(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    assert shown(machine.packages(requirements), "ok", "not a checkout")
    requirements.write_text("# pins\nnumpy==0.0.1\npytest>=1\n")
    assert shown(
        machine.packages(requirements), "warning", "1 of 1 differ: numpy ", "not 0.0.1", "make setup"
    )
    requirements.write_text("\n".join(f"no-such-{n}==1" for n in range(5)))
    parts = ("5 of 5 missing: no-such-0, no-such-1, no-such-2 and 2 more", "make setup")
    assert shown(machine.packages(requirements), "problem", *parts)
    assert shown(machine.packages(ROOT / "none" / ".." / "requirements.txt"), "ok")


def test_disk(tmp_path: Path, monkeypatch: Patch) -> None:
    folder = tmp_path / "not" / "made" / "yet"
    monkeypatch.setattr(machine, "LOW_FREE_BYTES", 0)
    monkeypatch.setattr(machine, "MIN_FREE_BYTES", 0)
    assert shown(machine.disk(folder), "ok", "GiB free for", str(folder))
    monkeypatch.setattr(machine, "LOW_FREE_BYTES", 1 << 60)
    assert shown(machine.disk(folder), "warning", "make clean")
    monkeypatch.setattr(machine, "MIN_FREE_BYTES", 1 << 60)
    assert shown(machine.disk(folder), "problem", "TWINSPIRE_CACHE")
    monkeypatch.setattr(os, "access", lambda *_: False)  # a test may run as root, who may write anywhere
    assert shown(machine.disk(folder), "problem", f"{tmp_path} cannot be written", "TWINSPIRE_CACHE")


def test_huge_pages(tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    assert shown(machine.huge_pages(setting), "ok", "none to ask for")
    setting.write_text("always [madvise] never\n")
    assert shown(machine.huge_pages(setting), "ok", "madvise")
    setting.write_text("always madvise [never]\n")
    assert shown(machine.huge_pages(setting), "warning", f"echo madvise | sudo tee {setting}")


def test_descriptors(monkeypatch: Patch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert shown(machine.descriptors(2000), "ok", "4,096 a process")
    assert shown(machine.descriptors(9000), "warning", "4,096", "ulimit -Hn 9000", "LimitNOFILE=9000")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert shown(machine.descriptors(9000), "ok", "no limit")


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        number = busy.getsockname()[1]
        found = settings.port("the service", "127.0.0.1", number, "PORT")
        assert shown(found, "warning", "Address already in use", f"PORT={number + 1}")
    assert shown(settings.port("the service", "127.0.0.1", number, "PORT"), "ok", "free")


@pytest.mark.parametrize("host", ["192.0.2.1", ".."])
def test_a_host_that_is_not_of_this_machine_is_a_problem(host: str) -> None:
    found = settings.port("the service", host, 0, "PORT")
    assert shown(found, "problem", f"for the service: {host}: ", "name an address of this machine")


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_registry_that_is_a_server() -> None:
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever).start()
        uri = f"http://ann:secret@127.0.0.1:{server.server_port}"
        finding = settings.registry(f"http://127.0.0.1:{server.server_port}")
        with_password = settings.registry(uri)
        server.shutdown()
    assert shown(finding, "ok", "answers with 200")
    assert shown(with_password, "ok", "answers with 200")
    dead = settings.registry(f"http://127.0.0.1:{server.server_port}")
    assert shown(dead, "problem", "refused", "MLFLOW_TRACKING_URI")
    assert "secret" not in settings.registry(uri).found
    assert shown(
        settings.registry("postgresql://ann:secret@db/mlflow?password=secret"), "ok", "db/mlflow: not tried"
    )
    assert "secret" not in settings.registry("postgresql://ann:secret@db/mlflow?password=secret").found


def test_a_registry_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"no HTTP\r\n\r\n")

        threading.Thread(target=answer).start()
        assert shown(settings.registry(f"http://127.0.0.1:{server.getsockname()[1]}"), "problem", "no HTTP")
    assert shown(settings.registry("http://ann:secret@"), "problem", "MLFLOW_TRACKING_URI")


@pytest.mark.parametrize(("host", "state"), [("127.0.0.2", "ok"), ("127.evil.example", "warning")])
def test_only_loopback_needs_no_tokens(host: str, state: FindingState) -> None:
    assert shown(settings.tokens(None, host), state)


def test_a_registry_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    assert shown(settings.registry(uri), "warning", "not there yet", "make demo")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE registered_models (name TEXT)")
        database.execute("INSERT INTO registered_models VALUES ('pydocs'), ('pydocs.release-lock-1')")
        database.commit()
    assert settings.registry(uri).found == f"{path}: pydocs registered"
    path.write_bytes(b"no database at all, but long enough to be read as one" * 100)
    assert shown(settings.registry(uri), "problem", "not a database", "restore it")


def test_certificates(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    for last_day, state, part in (
        (60, "ok", "60 days left"),
        (5, "warning", "5.0 days left"),
        (-1, "problem", "expired 1.0"),
    ):
        files = authority.server(-2, last_day).write(tmp_path)
        server, clients = settings.certificates(*files, tmp_path / "ca.pem")
        assert shown(server, state, part)
        assert shown(clients, "ok", "365 days left")
    early, *_ = settings.certificates(*authority.server(2, 60).write(tmp_path), None)
    assert shown(early, "problem", "not valid yet", "clock")
    (tmp_path / "key.pem").write_text("no key")
    (unusable,) = settings.certificates(*files, None)
    assert shown(unusable, "problem", "key.pem")
    (none,) = settings.certificates(None, None, None)
    assert shown(none, "ok", "none")


def test_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    assert shown(settings.tokens(None, "127.0.0.1"), "ok", "none")
    assert shown(
        settings.tokens(None, "0.0.0.0"),
        "warning",
        "every client that can connect to 0.0.0.0",
        "python -m serving token",
    )
    assert shown(settings.tokens(None, "0.0.0.0", tmp_path / "ca.pem"), "ok", "callers need a certificate")
    assert shown(settings.tokens(path, "0.0.0.0"), "problem", "there is no such file")
    path.write_text("token = []\n")
    assert shown(settings.tokens(path, "0.0.0.0"), "problem", "none of 0 is valid")
    entries = [new_token(name, "reader")[1] for name in ("a", "late")]
    path.write_text(f"{entries[0]}{entries[1]}expires = 2020-01-01\n")
    assert shown(settings.tokens(path, "0.0.0.0"), "ok", "1 valid, 1 expired")
    soon = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10 * settings.DAY))
    path.write_text(f"{entries[0]}expires = {soon}\n")
    assert shown(settings.tokens(path, "0.0.0.0"), "warning", "a in ", " days will expire")


def test_the_exit_status_and_the_document(capsys: Capture, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(machine, "MIN_FREE_BYTES", 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    flags = ["doctor", "--port", "0", "--metrics-port", "0"]
    path = tmp_path / "tokens.toml"
    path.write_text(new_token("a", "reader")[1])
    assert main([*flags, "--tokens", str(path), "--json"]) == 0, capsys.readouterr()
    document = json.loads(capsys.readouterr().out)
    assert document["ok"]
    checks = {each["check"].partition(" ")[0]: each for each in document["checks"]}
    assert set(checks) >= {
        "python",
        "compiler",
        "packages",
        "disk",
        "port",
        "registry",
        "certificate",
        "tokens",
    }
    assert set(checks) >= {"huge", "descriptors"}
    path.write_text("token = []\n")
    assert main([*flags, "--tokens", str(path), "--json"]) == 1
    output, said = capsys.readouterr()
    assert not json.loads(output)["ok"]
    assert said.startswith("error: 1 of ")
    assert main([*flags, "--tokens", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("problem  tokens"))
    assert lines[at + 1].split() == "-> `python -m serving token --name NAME` makes one".split()


@pytest.mark.parametrize("flags", [["--tls-key", "a"], ["--client-ca", "a"], ["--port", "70000"]])
def test_misuse(capsys: Capture, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *flags])
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


def test_it_runs_before_anything_is_installed(tmp_path: Path) -> None:
    """With the standard library alone, as `make doctor` runs it before `make setup`."""
    flags = ["--port", "0", "--metrics-port", "0", "--json"]
    command = [sys.executable, "-S", "-m", "serving.doctor", *flags]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    checks = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert checks["packages"]["state"] == FindingState.PROBLEM
    assert checks["packages"]["todo"] == "make setup"
    assert checks["python"]["state"] in (FindingState.OK, FindingState.WARNING)
