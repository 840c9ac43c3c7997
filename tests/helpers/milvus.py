"""The genuine Milvus server of the wheel `milvus`, in a network namespace of its own.

    with milvus_server(tmp_path_factory) as server:
        server.uri          # http://127.0.0.1:<port>
        server.kill()       # SIGKILL
        server.start()      # again, with its data
        server.stop(); server.resume()   # SIGSTOP, SIGCONT

The server listens on every address, whatever its configuration says, and on ports that are its own. In a
namespace with nothing but a loopback interface no other machine reaches it, and several run side by side. A
process that stands in both worlds passes connections on. The program is unpacked once for all servers: that
takes seconds of processor time.
"""

import contextlib
import ctypes
import fcntl
import importlib
import importlib.util
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.shared import shared_folder
from twinspire.train.paths import ROOT

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
PORT, HEALTH = 19530, "http://127.0.0.1:9091/healthz"
START_SECONDS = 90
# `session.ttl` of Milvus, 30 by default: how long after a kill it loads the collections again.
# A test that stops the server for a while must continue it sooner.
SESSION_SECONDS = 20


def needs_lite() -> pytest.MarkDecorator:
    """Skips tests where pymilvus or milvus-lite is not installed."""
    absent = [name for name in ("pymilvus", "milvus_lite") if not _is_installed(name)]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} is not installed")


def needs_server() -> pytest.MarkDecorator:
    """Skips tests where pymilvus or the server is not installed, or no namespace can be made."""
    absent = [name for name in ("pymilvus", "milvus") if not _is_installed(name)]
    if absent:
        return pytest.mark.skip(reason=f"{', '.join(absent)} is not installed")
    return pytest.mark.skipif(not _may_unshare(), reason="the kernel gives no network namespace")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@cache
def _may_unshare() -> bool:
    code = "import tests.helpers.milvus as it; it._leave_network()"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


@dataclass(frozen=True)
class RunningMilvus:
    """The running server."""

    port: int
    process: "subprocess.Popen[str]"

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._say("kill")

    def start(self) -> None:
        """Start it again, and wait until it says that it is healthy."""
        self._say("start")

    def stop(self) -> None:
        """Let it hang: SIGSTOP."""
        self._say("stop")

    def resume(self) -> None:
        """SIGCONT."""
        self._say("resume")

    def _say(self, what: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == what, f"{what}: the server's process has ended"


@contextlib.contextmanager
def milvus_server(factory: pytest.TempPathFactory) -> Iterator[RunningMilvus]:
    """A server with its data in a folder of its own, within the block."""
    program = shared_folder(factory, "milvus-program", unpack)
    with running(factory.mktemp("milvus-server"), program) as server:
        yield server


@contextlib.contextmanager
def running(folder: Path, program: Path) -> Iterator[RunningMilvus]:
    """A server with its data in a folder, within the block; `unpack` has filled the one of the program."""
    command = [sys.executable, "-m", __name__, str(folder), str(program / "bin")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "the server has not started"
            yield RunningMilvus(int(port), process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # it then ends the server
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def unpack(folder: Path) -> None:
    """Unpack the program of the wheel `milvus` into a folder."""
    wheel: Any = importlib.import_module("milvus")
    wheel._initialize_data_files(str(folder))


def _leave_network() -> None:
    """Move this process into a new namespace with a loopback interface alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK) and libc.unshare(NEW_USER | NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 1, b""))  # SIOCSIFFLAGS, IFF_UP


class _Milvus:
    """The process of the server."""

    def __init__(self, folder: Path, programs: Path) -> None:
        wheel: Any = importlib.import_module("milvus")
        self._folder, self._programs = folder.resolve(), programs.resolve()
        wheel.MilvusServerConfig(data_dir=str(self._folder)).resolve()  # writes the configuration
        path = self._folder / "configs" / "milvus.yaml"
        written = path.read_text()
        changed = written.replace("    ttl: 30 #", f"    ttl: {SESSION_SECONDS} #")
        assert changed != written, "milvus.yaml has no session.ttl of 30"
        path.write_text(changed)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program itself: its launcher takes other ports while those of before are not free yet."""
        variables = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": "9091",
            "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LD_LIBRARY_PATH": str(self._programs),
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "milvus"), "run", "standalone"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self._folder,
                env=os.environ | variables,
            )  # fmt: skip
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(HEALTH, timeout=5) as answer:
                if b"OK" in answer.read():
                    return
            time.sleep(0.1)
        raise SystemExit("the server is not healthy")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()


def _relay(listening: socket.socket) -> None:
    while True:
        client, _ = listening.accept()
        try:
            server = socket.create_connection(("127.0.0.1", PORT), 5)
            server.settimeout(None)
        except OSError:
            client.close()
            continue
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _main() -> None:
    folder, programs = map(Path, sys.argv[1:])
    listening = socket.create_server(("127.0.0.1", 0))  # outside of the namespace
    _leave_network()
    server = _Milvus(folder, programs)
    try:
        server.start()
        threading.Thread(target=_relay, args=(listening,), daemon=True).start()
        _write(str(listening.getsockname()[1]))
        for line in sys.stdin:
            match line.strip():
                case "kill":
                    server.signal(signal.SIGKILL)
                case "start":
                    server.start()
                case "stop":
                    server.signal(signal.SIGSTOP)
                case "resume":
                    server.signal(signal.SIGCONT)
            _write(line.strip())
    finally:
        with contextlib.suppress(ProcessLookupError, AssertionError):
            server.signal(signal.SIGKILL)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
