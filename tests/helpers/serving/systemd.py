"""A real systemd in namespaces of its own, with the units of `serving/deploy/systemd` installed as they say.

It sees the network of this machine, and its files but for /etc, /opt, /run and /var/lib, which are its own.
It knows the units that are installed for a test, and no others.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT

UNITS = ROOT / "serving" / "deploy" / "systemd"
MANAGER = "/usr/lib/systemd/systemd"
TARGETS = ("basic", "multi-user", "network-online", "shutdown", "sysinit", "time-sync", "timers")
BOOT = f"""
set -eu
mount --make-rprivate /
for each in etc opt var/lib; do mount --bind "$1/$each" "/$each"; done
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/systemd
for each in "$2:/opt/python" "$3:/opt/twinspire/lib/$5/site-packages" "$4:/opt/source"; do
  mkdir -p "${{each#*:}}"
  mount --bind "${{each%%:*}}" "${{each#*:}}"
done
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
systemd-sysusers
install -d -m 750 -g twinspire /etc/twinspire
install -m 640 -g twinspire "$1"/given/*.env /etc/twinspire/
exec env -i PATH="$PATH" container=other SYSTEMD_UNIT_PATH=/etc/units SYSTEMD_GENERATOR_PATH=/etc/none \
  {MANAGER} --system --unit=test.target --log-target=console --log-level=notice --show-status=no
"""


def missing_tools() -> str:
    """Why units cannot be checked here; empty where they can."""
    return (
        "" if shutil.which("systemd-analyze") else "systemd is not installed: no systemd-analyze on the PATH"
    )


def missing_manager() -> str:
    """Why no systemd can be started here; empty where one can."""
    if missing_tools() or not Path(MANAGER).is_file():
        return missing_tools() or f"systemd is not installed: no {MANAGER}"
    if os.geteuid() != 0:
        return "systemd is started by root alone, for it needs namespaces of its own"
    if _hierarchy() is None:
        return "systemd needs control groups of version 2, and none are mounted"
    script = "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mount -t cgroup2 cgroup2 /mnt"
    tried = subprocess.run([*_unshare(), "sh", "-c", script], capture_output=True, text=True)
    return f"systemd cannot be started in this container: {tried.stderr.strip()}" if tried.returncode else ""


def _unshare() -> list[str]:
    return ["unshare", *"--mount --pid --fork --kill-child --cgroup --ipc --uts --mount-proc".split()]


def _hierarchy() -> Path | None:
    """Where control groups of version 2 are mounted and may be made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    return None


class Systemd:
    """A manager that runs.

    Args:
        folder: with the folders that it sees as its own.
        pid: its process id here.
    """

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self.state = folder / "var" / "lib" / "twinspire"

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """What `systemctl` prints.

        Args:
            check: whether it has to succeed.
        """
        return self.run("systemctl", *arguments, check=check)

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints that runs where the manager does."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=240)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr, self.log())
        return done.stdout + done.stderr

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.ctl("show", "--property", name, "--value", unit).strip()

    def log(self, unit: str = "twinspire") -> str:
        path = self.folder / "var" / "lib" / f"{unit}.log"
        return path.read_text() if path.exists() else ""


@contextmanager
def booted(folder: Path, environment: Mapping[str, str], drop_in: str = "") -> Iterator[Systemd]:
    """Boot a systemd with the units installed, and stop it and all that it started when the block ends.

    Args:
        folder: an empty one, for its files.
        environment: file in /etc/twinspire -> its content.
        drop_in: more settings of the units.
    """
    hierarchy = _hierarchy()
    assert hierarchy is not None
    for name in ("given", "opt/twinspire/bin", "var/lib"):
        (folder / name).mkdir(parents=True)
    subprocess.run(["cp", "-a", "/etc", str(folder / "etc")], check=True)
    _install(folder, environment, drop_in)
    group = hierarchy / f"twinspire-test-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    site = sysconfig.get_path("purelib")
    release = f"python{sys.version_info.major}.{sys.version_info.minor}"
    enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]
    given = [str(folder), sys.base_prefix, site, str(ROOT), release]
    command = [*enter, *_unshare(), "sh", "-c", BOOT, "boot", *given]
    with (folder / "systemd.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        child = wait_until(lambda: children.read_text().split())[0]
        manager = Systemd(folder, int(child))
        wait_until(
            lambda: "active" in manager.ctl("is-active", "test.target", check=False).split(),
            30,
            (folder / "systemd.log").read_text,
        )
        yield manager
    finally:
        process.kill()
        process.wait()
        _remove(group)


def _install(folder: Path, environment: Mapping[str, str], drop_in: str) -> None:
    units = folder / "etc" / "units"
    units.mkdir()
    for path in UNITS.glob("*.service"):
        shutil.copy(path, units)
        more = units / f"{path.name}.d"
        more.mkdir()
        place = "Environment=PYTHONPATH=/opt/source/.import LD_LIBRARY_PATH=/opt/python/lib"
        log = f"/var/lib/{path.stem}.log"
        lines = ["[Service]", place, f"StandardOutput=append:{log}", f"StandardError=append:{log}", drop_in]
        (more / "test.conf").write_text("\n".join(lines) + "\n")
    for name in TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (units / "test.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (folder / "etc" / "sysusers.d").mkdir(exist_ok=True)
    shutil.copy(UNITS / "sysusers.conf", folder / "etc" / "sysusers.d" / "twinspire.conf")
    for name, text in environment.items():
        (folder / "given" / name).write_text(text)
    python = folder / "opt" / "twinspire" / "bin" / "python"
    python.symlink_to(f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    (python.parents[1] / "pyvenv.cfg").write_text("home = /opt/python/bin\n")


def _remove(group: Path) -> None:
    """Remove a control group and those in it, as soon as their processes have ended."""

    def empty() -> bool:
        for each in sorted(group.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
            if each.is_dir():
                with suppress(OSError):
                    each.rmdir()
        with suppress(OSError):
            group.rmdir()
        return not group.exists()

    wait_until(empty)
