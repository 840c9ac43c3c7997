"""The process that holds a release lock, described so that the same host can tell whether it still runs.

A process id alone is not enough: the kernel reuses ids, each container has its own, and after a restart of
the host an id belongs to another process. So the description also has the start time of the process, the
host, its boot and its pid namespace.
"""

import dataclasses
import getpass
import json
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from protos.documents import parse_json
from protos.toml_config import parse

TAG = "twinspire.process"
COMMAND_LENGTH = 200  # characters


def actor() -> str:
    """User and host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class LockHolder:
    """The process that holds a lock.

    Args:
        host: name of its host.
        machine: identity of the host, its boot and its pid namespace. Only a process with the same value can
            look up `pid`. Empty if it is unknown.
        pid: process id.
        started: start time, in ticks of the kernel since boot on Linux.
        command: command line, shortened.
    """

    host: str
    machine: str
    pid: int
    started: str
    command: str

    @classmethod
    def current(cls) -> "LockHolder":
        """This process."""
        command = shlex.join(sys.orig_argv)
        if len(command) > COMMAND_LENGTH:
            command = f"{command[: COMMAND_LENGTH - 3]}..."
        pid = os.getpid()
        try:
            machine, started = _machine(), _started(pid)
        except (psutil.Error, OSError, IndexError):  # no /proc: only its age frees the lock
            machine, started = "", ""
        return cls(socket.gethostname(), machine, pid, started, command)

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> "LockHolder | None":
        """The process that the tags of a lock describe; None if they describe none."""
        try:
            found: LockHolder = parse(parse_json(tags[TAG]), LockHolder)
        except (KeyError, ValueError):
            return None
        return found

    def tags(self) -> dict[str, str]:
        """The tags that `of` reads."""
        return {TAG: json.dumps(dataclasses.asdict(self))}

    def __str__(self) -> str:
        return printable(f"process {self.pid} on {self.host}, `{self.command}`")

    def has_died(self) -> bool:
        """Whether the process has certainly ended; False if this host cannot tell."""
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
        except (psutil.Error, OSError, IndexError):  # hidden from this user, or ended just now
            return False


def printable(text: str) -> str:
    """The text with `?` in place of each character that is not printable."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _started(pid: int) -> str:
    """The start time of a process; on Linux in ticks since boot, which setting the clock does not change."""
    if sys.platform == "linux":
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        return after_name.split()[19]  # field 22 of proc(5); the name is field 2
    return repr(psutil.Process(pid).create_time())


def _machine() -> str:
    """Boot and pid namespace of this process; empty if one of them is unknown."""
    if sys.platform != "linux":
        return f"booted {psutil.boot_time()}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - this link has no target
    except OSError:
        return ""
    return f"boot {boot} {namespace}"
