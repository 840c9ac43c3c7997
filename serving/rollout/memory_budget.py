"""Whether memory has room for a new bundle beside the one that is being served.

A new bundle is loaded while the old one still answers, and each worker loads its own. So all workers need the
memory at once; the old bundle is freed later.
"""

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from twinspire.protos.bundle import INDEX, ITEM_TOWER, ITEMS, QUERY_TOWER, Manifest
from twinspire.protos.errors import Unavailable

MIB = 1 << 20
MARGIN = 64 * MIB  # for temporary memory of loading, and for other processes
FACTORS = {INDEX: 1.0, QUERY_TOWER: 1.5, ITEMS: 4.0}  # approximate bytes in memory per byte of the file
GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
OUT_OF_MEMORY_SCORE = Path("/proc/self/oom_score_adj")
BATCH, VALUES = 32, 1000  # by default: queries in a worker's batch, strings in a feature that takes several
ENCODING_SHARE = 4  # by default the batches of all workers take at most this part of the free memory
# For both versions of control groups: folder of the controller; files of the limit and the use; and the
# statistic of memory that the kernel can reclaim.
KINDS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class ValidationBounds(NamedTuple):
    """The memory that the validation of a bundle may take.

    Args:
        batch: queries that a worker encodes together.
        values: strings in a feature that takes several.
        load: bytes to load the bundle in one process.
        encoding: bytes to encode the largest batch in one process.
    """

    batch: int
    values: int
    load: int
    encoding: int


def validation_bounds(
    copies: int = 1,
    batch: int = BATCH,
    values: int = VALUES,
    memory: int = 0,
    encoding: int = 0,
    free: int | None = None,
) -> ValidationBounds:
    """The bounds of one validation.

    Args:
        copies: processes that will load the bundle.
        batch: queries that each of them encodes together.
        values: strings in a feature that takes several.
        memory: bytes that all processes may take together; 0: what the machine has left.
        encoding: bytes that encoding a batch may take in each process; 0: a quarter of what the machine has
            left, divided by the processes.
        free: bytes that the machine has left; measured if not given.
    """
    free = available() if free is None else free
    return ValidationBounds(
        batch, values, (memory or free) // copies, encoding or max(MARGIN, free // ENCODING_SHARE // copies)
    )


@contextmanager
def limit_private_memory(more: int) -> Iterator[None]:
    """Let this process allocate at most `more` bytes within the block; an allocation beyond fails.

    It has no effect where the system does not count a process's private memory (other systems than Linux).
    """
    used = getattr(psutil.Process().memory_info(), "data", None)
    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if used is not None:
        most = min(each for each in (soft, hard, used + more) if each != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def prefer_for_oom_kill() -> None:
    """Let the kernel end this process before all others if the machine runs out of memory."""
    with suppress(OSError):  # not Linux, or not permitted
        OUT_OF_MEMORY_SCORE.write_text("1000")


def estimate(manifest: Manifest, item_tower: bool = False) -> int:
    """Bytes that one process will need for a bundle, estimated from its files.

    Vectors in float32 are mapped, and shared by all processes; each process decodes other vectors for itself.
    A graph is not loaded if the bundle searches exactly.

    Args:
        item_tower: the item tower is loaded too.
    """
    factors = {**FACTORS, ITEM_TOWER: 1.5} if item_tower else dict(FACTORS)
    if manifest.index.kind != "hnsw":
        del factors[INDEX]
    decoded = 0 if manifest.precision.vectors == "fp32" else 4 * manifest.count * manifest.dimension
    return decoded + int(sum(manifest.files[name].size * factor for name, factor in factors.items()))


def check_room(each: int, copies: int, memory: int = 0, free: int | None = None) -> None:
    """Refuse a bundle that does not fit into memory.

    Args:
        each: bytes of the bundle in one process.
        copies: processes that load it.
        memory: bytes that all processes may take together; 0: what the machine has left.
        free: bytes that the machine has left; measured if not given.

    Raises:
        Unavailable: there is not enough memory.
    """
    needs = each * copies + MARGIN
    if memory:
        room, which = memory, "allowed by --memory"
    else:
        room, which = available() if free is None else free, "free"
    if needs > room:
        raise Unavailable(
            f"too large for the memory: {copies} times {each / MIB:,.0f} MiB and a margin are "
            f"{needs / MIB:,.0f} MiB, {room / MIB:,.0f} MiB are {which}"
        )


def available(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that this process and its children may still allocate, by machine and control group."""
    free = int(psutil.virtual_memory().available)
    return min([free, *_left_by_group(groups, membership)])


def _left_by_group(groups: Path, membership: Path) -> Iterator[int]:
    """Bytes left in each control group of this process that has a limit."""
    for controller, limit, use, droppable in KINDS:
        top = groups / controller
        for path in _group_paths(membership, controller):
            inner = top / path.strip("/")
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


def _group_paths(membership: Path, controller: str) -> Iterator[str]:
    """The path of this process's control group, which a container may not see, and the top one."""
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
