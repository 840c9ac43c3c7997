"""Clusters of PostgreSQL for tests, on a socket in a temporary folder.

with postgres() as uri: ...

with running(pgvector_programs()) as server:
    server.uri
    server.kill()       # SIGKILL of all its processes
    server.start()      # again, with its data
    server.stop(); server.resume()   # SIGSTOP, SIGCONT
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

START_SECONDS = 90.0  # a machine that does other things beside takes its time


@dataclass
class RunningPostgres:
    """A cluster in a folder, which only tests of one process use.

    Args:
        programs: the folder of `postgres`.
        settings: of the server.
    """

    folder: Path
    programs: Path
    settings: Sequence[str] = ()
    user: str | None = None
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def uri(self) -> str:
        return f"postgresql://twinspire@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        given = [part for each in ("listen_addresses=", *self.settings) for part in ("-c", each)]
        # `Popen(user=...)` forks, and the fork of a process with threads of gRPC may crash.
        as_user = ["setpriv", f"--reuid={self.user}", "--clear-groups"] if self.user else []
        command = [
            *as_user,
            f"{self.programs}/postgres",
            "-D",
            f"{self.folder}/data",
            "-k",
            str(self.folder),
            *given,
        ]
        log = self.folder / "log"
        with log.open("a") as output:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=output)
        asks = [f"{self.programs}/pg_isready", "-q", "-h", str(self.folder)]
        until = time.monotonic() + START_SECONDS
        while subprocess.run(asks, check=False).returncode:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Let it hang: SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """End it properly, whatever it does."""
        if self.process.poll() is None:
            self.resume()
            self.process.send_signal(signal.SIGINT)  # to PostgreSQL: end now, and properly
            self.process.wait(30)

    def _signal(self, number: signal.Signals) -> None:
        parent = psutil.Process(self.process.pid)
        for each in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)


@contextlib.contextmanager
def running(programs: Path, *settings: str) -> Iterator[RunningPostgres]:
    """A cluster of its own within the block."""
    user = _unprivileged()
    with tempfile.TemporaryDirectory(prefix="twinspire-pg-", ignore_cleanup_errors=True) as name:
        server = RunningPostgres(Path(name), programs, ("fsync=off", *settings), user)
        if user:
            shutil.chown(name, user)
        options = ("-U", "twinspire", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        made = subprocess.run(
            [programs / "initdb", "-D", f"{name}/data", *options],
            user=user,
            cwd=name,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        server.start()
        try:
            yield server
        finally:
            server.end()


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URI of a cluster of its own within the block."""
    with running(Path(shutil.which("initdb") or "").resolve().parent) as server:
        yield server.uri


def without_postgres() -> str:
    """Why PostgreSQL cannot be tested here; empty if it can."""
    if shutil.which("initdb") is None:
        return "PostgreSQL is not installed: there is no initdb on the PATH"
    if importlib.util.find_spec("psycopg") is None:
        return "the driver of PostgreSQL is not installed: there is no psycopg"
    if os.geteuid() == 0 and _unprivileged() is None:
        return "PostgreSQL does not run as root, and this system has no user to run it as (postgres, nobody)"
    return ""


def pgvector_programs() -> Path | None:
    """The programs of the newest PostgreSQL on the PATH that has pgvector, as Debian names folders."""
    folders = {Path(each).resolve() for each in os.environ["PATH"].split(os.pathsep) if each}
    folders |= {
        Path(found).resolve().parent for each in folders if (found := shutil.which("initdb", path=each))
    }
    known = {int(each.parent.name): each for each in folders if each.parent.name.isdigit()}
    for version in sorted(known, reverse=True):
        share = Path("/usr/share/postgresql") / f"{version}" / "extension" / "vector.control"
        if share.is_file() and (known[version] / "initdb").is_file():
            return known[version]
    return None


def needs_pgvector() -> pytest.MarkDecorator:
    """Skips tests where PostgreSQL, its driver or pgvector is not installed."""
    why = without_postgres() or ("" if pgvector_programs() else "pgvector is not installed")
    return pytest.mark.skipif(bool(why), reason=why or "it is there")


def _unprivileged() -> str | None:
    """Who is to run PostgreSQL, which refuses to run as root; None where we are not root."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    names = [name for name in ("postgres", "nobody") if name in known]
    return names[0] if os.geteuid() == 0 and names else None
