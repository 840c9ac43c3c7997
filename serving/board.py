"""Notes that the service's processes leave for one another: one writer for each, any reader, no lock.

    board = Board.create(("target", "worker 0", "worker 1"))  # in the supervisor, before it forks
    board.write("worker 0", {"serial": 3})                     # in that worker
    board.read("worker 0")                                     # anywhere

A note is JSON in shared memory that is made before the fork. There are two pages for each: a writer fills
the one that is not being read, and then turns a counter that says which one counts, in one aligned cell of 8
bytes. So a process that is killed while it writes leaves the note as it was before, and a reader never sees
half of one.
"""

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from typing import Any

PAGE = 16 << 10  # bytes of one note
HEAD = struct.Struct("<Q")  # of a page: the length of what is on it
SLOT = 8 + 2 * PAGE


class Board:
    """Notes by name. Made by `create`, before any process is forked that shall see them."""

    def __init__(self, memory: mmap.mmap, names: Sequence[str]) -> None:
        self._memory = memory
        self._counters = memoryview(memory).cast("Q")
        self._starts = {name: n * SLOT for n, name in enumerate(names)}

    @classmethod
    def create(cls, names: Sequence[str]) -> "Board":
        """Room for a note of each name, all of them empty."""
        return cls(mmap.mmap(-1, len(names) * SLOT), names)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the notes."""
        return tuple(self._starts)

    def turn(self, name: str) -> int:
        """How often a note has been written: one that stays has not changed.

        Raises:
            KeyError: there is no note of that name.
        """
        return int(self._counters[self._starts[name] // 8])

    def write(self, name: str, note: Mapping[str, Any]) -> None:
        """Put a note in the place of the one before. For one process at a time.

        Raises:
            KeyError: there is no note of that name.
            ValueError: it is longer than a page.
        """
        content = json.dumps(note).encode()
        if len(content) > PAGE - HEAD.size:
            raise ValueError(f"{name}: a note of {len(content)} bytes, expected at most {PAGE - HEAD.size}")
        turn = self.turn(name) + 1
        page = self._page(name, turn)
        self._memory[page : page + HEAD.size + len(content)] = HEAD.pack(len(content)) + content
        self._counters[self._starts[name] // 8] = turn

    def read(self, name: str) -> dict[str, Any]:
        """The note of that name; empty where none has been written.

        Raises:
            KeyError: there is no note of that name.
        """
        while turn := self.turn(name):
            page = self._page(name, turn)
            (length,) = HEAD.unpack_from(self._memory, page)
            content = self._memory[page + HEAD.size : page + HEAD.size + length]
            if self.turn(name) == turn:  # or the page may have been filled anew in the meantime
                return dict(json.loads(content))
        return {}

    def _page(self, name: str, turn: int) -> int:
        return self._starts[name] + 8 + turn % 2 * PAGE
