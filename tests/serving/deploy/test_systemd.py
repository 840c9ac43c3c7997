"""The units: checked by systemd-analyze, and run by a real systemd with all of their hardening."""

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.helpers.serving import systemd
from tests.helpers.serving.collector import Collector
from tests.helpers.serving.faulty import Versions
from tests.helpers.serving.stopping import clients_under_load, traces
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import AccessDenied
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.security import Security
from twinspire.serving.security.tokens import new_token

pytestmark = pytest.mark.timeout(300)  # a busy machine takes long to start a service three times
NO_TOOLS, NO_MANAGER = systemd.missing_tools(), systemd.missing_manager()
UNITS = sorted(systemd.UNITS.glob("*.service"))
TIMERS = sorted(systemd.UNITS.glob("*.timer"))
EXPOSURE = 15  # of 100, as `systemd-analyze security` counts; below 20 is "safe" to it


@pytest.mark.skipif(bool(NO_TOOLS), reason=NO_TOOLS)
@pytest.mark.parametrize("unit", [*UNITS, *TIMERS], ids=lambda path: path.name)
def test_systemd_finds_no_fault_in_the_unit(unit: Path, tmp_path: Path) -> None:
    """`verify` warns of unknown settings and values; the program is not installed here, so a stand-in is."""
    for path in re.findall(r"^Exec\w+=(\S+)", unit.with_suffix(".service").read_text(), re.MULTILINE):
        program = tmp_path / path.lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for each in (*UNITS, *TIMERS):
        (units / each.name).write_text(each.read_text())
    for target in systemd.TARGETS:
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    checked = _analyze("verify", "--man=no", f"--root={tmp_path}", unit.name)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.skipif(bool(NO_TOOLS), reason=NO_TOOLS)
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_is_exposed_to_little(unit: Path) -> None:
    checked = _analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit))
    assert checked.returncode == 0, checked.stdout


def _analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


SERVE = "--bundle {state}/bundle --port 0 --port-file {state}/port --workers 2 --catalogue"
STATE = "/var/lib/twinspire"
real = pytest.mark.skipif(bool(NO_MANAGER), reason=NO_MANAGER)


@contextmanager
def service(folder: Path, bundle: Path, flags: str = "", drop_in: str = "") -> Iterator[systemd.Systemd]:
    """A systemd that has the unit, a bundle to serve, and flags in the file of its environment."""
    line = f"TWINSPIRE_SERVE={SERVE.format(state=STATE)} {flags}\n"
    with systemd.booted(folder, {"serving.env": line}, drop_in) as manager:
        shutil.copytree(bundle, manager.state / "bundle")
        yield manager


def address(manager: systemd.Systemd) -> str:
    """Where the service of the unit answers."""
    return f"127.0.0.1:{(manager.state / 'port').read_text().strip()}"


@real
@pytest.mark.exhaustive
@pytest.mark.quiet
def test_the_unit_runs_hardened_and_is_ready_when_systemd_says_so(plain: Path, tmp_path: Path) -> None:
    made, entry = new_token("frontend", "reader")
    flags = "--tokens /etc/twinspire/tokens.toml"
    with service(tmp_path / "machine", plain, flags) as manager:
        tokens = manager.folder / "etc" / "twinspire" / "tokens.toml"
        tokens.write_text("token = []\n")
        tokens.chmod(0o644)
        manager.ctl("start", "twinspire")  # returns when the service is ready
        assert manager.shown("twinspire", "StatusText") == f"serving tiny at {address(manager)}"
        with RetrievalClient(address(manager), security=Security(token=made)) as client:
            with pytest.raises(AccessDenied):
                client.search("bavuti", k=1)
            tokens.write_text(entry)
            wait_until(lambda: _answers(client))
            main = int(manager.shown("twinspire", "MainPID"))
            status = manager.run("cat", f"/proc/{main}/status")
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert fields["NoNewPrivs"] == "1"
            assert fields["Seccomp"] == "2"
            assert int(fields["CapEff"], 16) == 0
            assert fields["Uid"].split()[0] != "0"
        manager.ctl("stop", "twinspire")
        assert manager.shown("twinspire", "Result") == "success"
        assert (manager.state / "live" / "items.db").exists()  # the store of live items, in what it may write


@real
@pytest.mark.filterwarnings("ignore")
@pytest.mark.exhaustive
@pytest.mark.quiet
def test_the_unit_follows_an_alias_of_a_registry(plain: Path, empty_store: Path, tmp_path: Path) -> None:
    """Hardening stops MLflow sooner than the service: it imports more than a hundred packages."""
    registry = tmp_path / "registry"
    registry.mkdir()
    uri = f"sqlite:///{shutil.copy(empty_store, registry / 'mlflow.db')}"
    versions = Versions(uri, registry / "artefacts", direct=True)
    try:
        versions.add_bundle(plain)
        versions.point("1")
    finally:
        versions.close()
    line = "TWINSPIRE_SERVE=--model models:/faults@champion --port 0 --port-file /var/lib/twinspire/port"
    environment = {"serving.env": f"MLFLOW_TRACKING_URI={uri}\n{line} --workers 1 --poll 1\n"}
    with systemd.booted(tmp_path / "machine", environment, f"BindPaths={registry}") as manager:
        manager.ctl("start", "twinspire")
        with RetrievalClient(address(manager)) as client:
            assert len(client.search("bavuti", k=1).hits) == 1
            wait_until(lambda: client.info().state["following"]["last_check"], 60, manager.log)
            assert client.info().state["following"]["last_error"] == ""
        manager.ctl("stop", "twinspire")
        assert manager.shown("twinspire", "Result") == "success"


@real
@pytest.mark.exhaustive
@pytest.mark.quiet
def test_the_gateways_unit_answers_for_the_service(plain: Path, tmp_path: Path) -> None:
    grpc_port, http_port = free_ports(2)
    environment = {
        "serving.env": f"TWINSPIRE_SERVE=--bundle {STATE}/bundle --port {grpc_port} --workers 1\n",
        "gateway.env": f"TWINSPIRE_GATEWAY=--address 127.0.0.1:{grpc_port} --port {http_port}\n",
    }
    with systemd.booted(tmp_path / "machine", environment) as manager:
        shutil.copytree(plain, manager.state / "bundle")
        manager.ctl("start", "twinspire", "twinspire-gateway")
        url = f"http://127.0.0.1:{http_port}"
        wait_until(lambda: _fetch(f"{url}/readyz") == 200, 30, lambda: manager.log("twinspire-gateway"))
        query = json.dumps({"query": {"text": "bavuti"}, "k": 2}).encode()
        request = urllib.request.Request(f"{url}/v1/search", query, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert len(json.load(answer)["hits"]) == 2
        manager.ctl("stop", "twinspire")  # the gateway says so, and stays
        wait_until(lambda: _fetch(f"{url}/readyz") == 503)
        manager.ctl("stop", "twinspire-gateway")
        assert manager.shown("twinspire-gateway", "Result") == "success"
        assert "Traceback" not in manager.log("twinspire-gateway")


def _fetch(url: str) -> int:
    """The status of an answer; 0 without one."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def free_ports(count: int) -> list[int]:
    """Ports that no process has."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(client: RetrievalClient) -> bool:
    with suppress(AccessDenied):
        return len(client.search("bavuti", k=1).hits) == 1
    return False


@real
@pytest.mark.exhaustive
@pytest.mark.quiet
@pytest.mark.parametrize("mode", ["mixed", "control-group"])
def test_a_stop_by_systemd_loses_no_request_of_64_clients(plain: Path, tmp_path: Path, mode: str) -> None:
    """With `control-group` each process of the service gets SIGTERM from systemd, in any order."""
    collector = Collector()
    with service(tmp_path / "machine", plain, traces(collector), f"KillMode={mode}") as manager:
        manager.ctl("start", "twinspire")
        with clients_under_load(address(manager)) as clients:
            manager.ctl("stop", "twinspire")
            clients.join()
        assert manager.shown("twinspire", "Result") == "success"
        collector.stop()
        clients.check(collector)
        assert not [word for word in ("killed", "died", "Traceback") if word in manager.log()]


@real
@pytest.mark.exhaustive
@pytest.mark.quiet
def test_systemd_restarts_a_service_that_dies_or_hangs_and_not_one_with_wrong_flags(
    plain: Path, tmp_path: Path
) -> None:
    with service(tmp_path / "machine", plain, drop_in="WatchdogSec=2\nRestartSec=100ms") as manager:
        manager.ctl("start", "twinspire")
        for number in ("KILL", "STOP"):  # one that dies, and one that gives no sign of life
            before = manager.shown("twinspire", "MainPID")
            manager.ctl("kill", "--kill-whom=main", f"--signal={number}", "twinspire")
            wait_until(lambda: manager.shown("twinspire", "MainPID") not in (before, "0"), 90)  # noqa: B023
            wait_until(lambda: manager.shown("twinspire", "ActiveState") == "active", 90, manager.log)
            with RetrievalClient(address(manager)) as client:
                assert len(client.search("bavuti", k=1).hits) == 1
        assert manager.shown("twinspire", "NRestarts") == "2"
        manager.ctl("stop", "twinspire")
        wrong = manager.folder / "etc" / "twinspire" / "serving.env"
        wrong.write_text("TWINSPIRE_SERVE=--worker 2\n")
        manager.ctl("start", "twinspire", check=False)
        assert manager.shown("twinspire", "ActiveState") == "failed"
        assert manager.shown("twinspire", "ExecMainStatus") == "2"
        assert manager.shown("twinspire", "NRestarts") == "0"
