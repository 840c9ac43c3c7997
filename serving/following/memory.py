"""Whether a bundle has room beside the one that is being served.

A new bundle is loaded while the old one still answers, and each worker loads it for itself. So it needs the
memory of all workers at once; what the old one frees comes later.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from protos.bundle import INDEX, ITEM_TOWER, ITEMS, QUERY_TOWER, Manifest
from protos.errors import Unavailable

MIB = 1 << 20
MARGIN = 64 * MIB  # for what loading takes for a moment, and for everybody else
TIMES = {INDEX: 1.0, QUERY_TOWER: 1.5, ITEMS: 4.0}  # bytes in memory of a byte in the file, about
GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# For both kinds of control groups: folder of the controller, then limit, use, and what of it can be dropped.
KINDS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def estimate(manifest: Manifest, item_tower: bool = False) -> int:
    """Bytes that one process will need for a bundle, guessed from its files.

    Vectors in float32 are mapped, and shared by all; others each process brings back for itself. A graph that
    nobody asks is not loaded.

    Args:
        manifest: of the bundle.
        item_tower: it is loaded too.
    """
    times = {**TIMES, ITEM_TOWER: 1.5} if item_tower else dict(TIMES)
    if manifest.index.exact:
        del times[INDEX]
    own = 0 if manifest.precision.vectors == "fp32" else 4 * manifest.count * manifest.dimension
    return own + int(sum(manifest.files[name].size * factor for name, factor in times.items()))


def check_room(each: int, copies: int, memory: int = 0, free: int | None = None) -> None:
    """Whether so many copies of a bundle can be loaded now.

    Args:
        each: bytes that one of them takes.
        copies: processes that load it.
        memory: bytes that all may take together; 0: what the machine has left.
        free: bytes that are left; looked up if not given.

    Raises:
        Unavailable: there is not enough.
    """
    needs = each * copies + MARGIN
    if memory:
        room, where = memory, "--memory allows"
    else:
        room, where = available() if free is None else free, "are free:"
    if needs > room:
        raise Unavailable(
            f"too large for the memory: {copies} times {each / MIB:,.0f} MiB and a margin are "
            f"{needs / MIB:,.0f} MiB, {where} {room / MIB:,.0f} MiB"
        )


def available(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that this process and its children may still take: of the machine, or of their control group."""
    free = int(psutil.virtual_memory().available)
    return min([free, *_left(groups, membership)])


def _left(groups: Path, membership: Path) -> Iterator[int]:
    """What is left in each control group that this process is in, and that has a limit."""
    for controller, limit, use, droppable in KINDS:
        top = groups / controller
        for own in _own(membership, controller):
            inner = top / own.strip("/")
            for folder in (inner, *inner.parents):
                if folder != top and top not in folder.parents:
                    break
                try:
                    most = int((folder / limit).read_text())  # no limit is the word `max`
                    used = int((folder / use).read_text())
                    statistics = dict(
                        line.split() for line in (folder / "memory.stat").read_text().splitlines()
                    )
                except (OSError, ValueError):
                    continue
                yield max(0, most - used + _number(statistics, droppable))


def _own(membership: Path, controller: str) -> Iterator[str]:
    """The path of this process's group; in a container it may be one that cannot be seen from inside."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            yield path
    yield "/"


def _number(statistics: Mapping[str, str], name: str) -> int:
    return int(statistics.get(name, "0"))
