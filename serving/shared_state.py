"""Small JSON entries in shared memory, through which the processes of a service exchange their state.

    state = SharedState(("target", "worker 0", "worker 1"))  # in the supervisor, before it forks
    state.write("worker 0", {"serial": 3})                          # in that worker
    state.read("worker 0")                                          # in any process

Each entry has one writer and any number of readers, and no lock. The memory is allocated before the fork.
Each entry has two pages: the writer fills the page that readers do not use, and then increments a version
number that selects it, in one aligned cell of 8 bytes. So a process that is killed during a write leaves the
previous entry intact, and a reader never sees half an entry.
"""

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from typing import Any

# Names of entries, with the process that writes each. A worker's own entry is named by `worker_name`.
TARGET = "target"  # follower (first the supervisor): the bundles that all workers have to serve
NEXT = "next"  # follower: the bundles that workers have to load next
FOLLOWING = "following"  # follower: how it follows its aliases
SHADOW_TARGET = "shadow target"  # follower: the bundle that the shadow has to load
SHADOW = "shadow"  # shadow: what it has compared
ACCESS = "access"  # supervisor: the state of certificate and token files
CATALOGUE = "catalogue"  # catalogue (first the supervisor): the store of live items, and what was encoded
EVENTS = "events"  # events' process (first the supervisor): the store of events
SERVED_LOG = "served log"  # served log's process (first the supervisor): its rows and files
ENTRIES = (TARGET, NEXT, FOLLOWING, SHADOW_TARGET, SHADOW, ACCESS, CATALOGUE, EVENTS, SERVED_LOG)
WORKER = "worker "  # prefix of the names of workers' entries

PAGE = 16 << 10  # bytes
SLOT = 8 + 2 * PAGE  # bytes of an entry: its version number and two pages
HEAD = struct.Struct("<Q")  # at the start of a page: the length of its content


def worker_name(slot: int) -> str:
    """The name of the worker in a slot, and of its entry."""
    return f"{WORKER}{slot}"


def fields_of(message: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an entry that are fields of a message of protobuf."""
    return {name: entry[name] for name in message.DESCRIPTOR.fields_by_name if name in entry}


class SharedState:
    """Entries by name, at first empty. Make it before forking the processes that share it.

    Methods raise KeyError if there is no entry of the name that they get.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._memory = mmap.mmap(-1, len(names) * SLOT)
        self._versions = memoryview(self._memory).cast("Q")
        self._starts = {name: n * SLOT for n, name in enumerate(names)}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all entries."""
        return tuple(self._starts)

    def version(self, name: str) -> int:
        """The number of times that an entry has been written; while it stays the same, so does the entry."""
        return int(self._versions[self._starts[name] // 8])

    def write(self, name: str, entry: Mapping[str, Any]) -> None:
        """Replace an entry. Only one process may write an entry at a time.

        Raises:
            ValueError: the entry is larger than a page.
        """
        content = json.dumps(entry).encode()
        most = PAGE - HEAD.size
        if len(content) > most:
            raise ValueError(f"{name}: an entry of {len(content)} bytes, expected at most {most}")
        version = self.version(name) + 1
        page = self._page(name, version)
        self._memory[page : page + HEAD.size + len(content)] = HEAD.pack(len(content)) + content
        self._versions[self._starts[name] // 8] = version

    def read(self, name: str) -> dict[str, Any]:
        """The entry of that name; empty if it has not been written yet."""
        while version := self.version(name):
            page = self._page(name, version)
            (length,) = HEAD.unpack_from(self._memory, page)
            content = self._memory[page + HEAD.size : page + HEAD.size + length]
            if self.version(name) == version:  # otherwise the writer may have refilled the page
                return dict(json.loads(content))
        return {}

    def _page(self, name: str, version: int) -> int:
        return self._starts[name] + 8 + version % 2 * PAGE
