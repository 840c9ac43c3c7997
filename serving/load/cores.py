"""Which core does what: servers on the first, the load on the second, so that neither slows the other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Set = frozenset[int] | None  # None: wherever the system likes


@dataclass(frozen=True)
class Cores:
    """The cores of a measurement.

    Args:
        servers: of the server that is measured; all of them run there, one at a time.
        load: of the generator.
        both: of either, where they have to share.
        note: why nothing is pinned; empty where it is.
    """

    servers: Set = None
    load: Set = None
    both: Set = None
    note: str = ""


def cores() -> Cores:
    """Two cores of those that this process may use."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores(note="not pinned: this system does not let a process choose its cores")
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        return Cores(note="not pinned: there is one core, which servers and load share")
    try:
        os.sched_setaffinity(0, free)
    except OSError as error:
        return Cores(note=f"not pinned: {error.strerror}")
    first, second = free[:2]
    return Cores(frozenset({first}), frozenset({second}), frozenset({first, second}))


@contextmanager
def on(chosen: Set) -> Iterator[None]:
    """Run the block, and the processes that it starts, on these cores."""
    if chosen is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
