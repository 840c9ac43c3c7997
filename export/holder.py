"""The process that holds a release lock: another process on the same host can tell whether it still runs.

A process id alone is not enough: the kernel reuses it, each container counts its own, and after a restart
of the host it names another process. So the description holds the start time of the process, the identity
of the host, its boot and its pid namespace.
"""

import dataclasses
import json
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from protos.config import parse
from protos.documents import parse_json

TAG = "twinspire.process"
COMMAND_LENGTH = 200  # characters


@dataclass(frozen=True)
class Holder:
    """A process.

    Args:
        host: the name of its host.
        machine: identity of the host, its boot and its pid namespace; only processes with an equal one can
            look up the id. Empty if this is not known.
        pid: its id.
        started: when it started, as its kernel counts.
        command: its command line, shortened.
    """

    host: str
    machine: str
    pid: int
    started: str
    command: str

    @classmethod
    def current(cls) -> "Holder":
        """This process."""
        command = shlex.join(sys.orig_argv)
        if len(command) > COMMAND_LENGTH:
            command = f"{command[: COMMAND_LENGTH - 3]}..."
        pid = os.getpid()
        try:
            machine, started = _machine(), _started(pid)
        except (psutil.Error, OSError, IndexError):  # there is no /proc: the lock is held for its lease
            machine, started = "", ""
        return cls(socket.gethostname(), machine, pid, started, command)

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> "Holder | None":
        """The process that the tags of a lock describe; None if they describe none."""
        try:
            found: Holder = parse(parse_json(tags[TAG]), Holder)
        except (KeyError, ValueError):
            return None
        return found

    def tags(self) -> dict[str, str]:
        """What `of` reads."""
        return {TAG: json.dumps(dataclasses.asdict(self))}

    def __str__(self) -> str:
        return printable(f"process {self.pid} on {self.host}, `{self.command}`")

    def has_died(self) -> bool:
        """Whether the process has certainly ended; False where this host cannot tell."""
        here = socket.gethostname(), _machine()
        if not self.machine or (self.host, self.machine) != here or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it runs as another user
            pass
        except OverflowError:
            return False
        try:
            if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
                return True
            return _started(self.pid) != self.started
        except (psutil.Error, OSError, IndexError):  # it is hidden from this user, or has ended just now
            return False


def printable(text: str) -> str:
    """A text with `?` in place of control characters and others that are not printable."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _started(pid: int) -> str:
    """When a process started. On Linux in ticks since boot, which a corrected clock does not change."""
    if sys.platform == "linux":
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        return after_name.split()[19]  # field 22 of proc(5), the third is the first after the name
    return repr(psutil.Process(pid).create_time())


def _machine() -> str:
    """Host, boot and pid namespace of this process; empty if one of them is not known."""
    if sys.platform != "linux":
        return f"booted {psutil.boot_time()}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - this link has no target
    except OSError:
        return ""
    return f"boot {boot} {namespace}"
