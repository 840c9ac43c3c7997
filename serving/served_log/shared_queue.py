"""Queues of bytes in shared memory, from each worker to one process; a writer needs no system call.

All memory is allocated before the fork, and the supervisor keeps it. So a worker or a reader that is
restarted uses the same queues, and loses no content of them.
"""

import mmap
import threading
import time

MOST_WAITING = 64 << 20  # bytes of a worker's queue; content that finds no room is dropped
POLL_SECONDS = 0.05  # between two looks of a reader that waits
WRITTEN, READ, DROPPED, FAILED = range(4)  # cells before the content; the reader alone writes READ
CELL = 8  # bytes
HEAD = 4 * CELL
SKIP = (1 << 64) - 1  # in place of a length: the next content is at the start of the memory


class SharedQueues:
    """A queue for each worker, with one writer each, and all with the same one reader.

    Args:
        workers: number of slots.
        size: bytes of each queue.
    """

    def __init__(self, workers: int, size: int = MOST_WAITING) -> None:
        self._queues = [_Queue(size) for _ in range(workers)]

    @property
    def dropped(self) -> int:
        """Answers that found no room, since the service started."""
        return sum(each.cells[DROPPED] for each in self._queues)

    @property
    def failed(self) -> int:
        """Answers that a fault kept from the queues, since the service started."""
        return sum(each.cells[FAILED] for each in self._queues)

    def put(self, slot: int, content: bytes, count: int = 1) -> None:
        """Add to the queue of the worker in a slot; without room, its `count` messages are dropped."""
        queue = self._queues[slot]
        if not queue.put(content):
            queue.cells[DROPPED] += count

    def fail(self, slot: int) -> None:
        """Count an answer that a fault keeps from the queue of the worker in a slot."""
        self._queues[slot].cells[FAILED] += 1

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` until there is something to take; returns whether there is."""
        until = time.monotonic() + seconds
        while not any(each.has_content for each in self._queues):
            left = until - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, POLL_SECONDS))
        return True

    def take(self, most: int) -> list[bytes]:
        """Remove the oldest contents, at most `most` of each worker."""
        return [content for each in self._queues for content in each.take(most)]

    def close(self) -> None:
        """Release the memory in this process."""
        for each in self._queues:
            each.close()


class _Queue:
    """A ring of contents: each is a cell with its length, and its bytes, filled up to whole cells.

    Positions count bytes since the start. The writer publishes content by the cell `WRITTEN`, after it has
    written the content. In a queue that is empty and beyond a quarter of the memory it goes back to the
    start, so that a queue whose reader keeps up occupies a quarter; until the reader has taken the next
    content, it holds as much.
    """

    def __init__(self, size: int) -> None:
        self._size = -(-size // CELL) * CELL
        self._memory = mmap.mmap(-1, HEAD + self._size)
        self.cells = memoryview(self._memory).cast("Q")
        self._lock = threading.Lock()
        self._lock.acquire()

    def _order(self) -> None:
        """Keep the processor from moving accesses to memory from one side of this call to the other."""
        self._lock.release()
        self._lock.acquire()

    @property
    def has_content(self) -> bool:
        return self.cells[WRITTEN] != self.cells[READ]

    def put(self, content: bytes) -> bool:
        """Add content; returns whether there was room."""
        written, read = self.cells[WRITTEN], self.cells[READ]
        begin, needed = written % self._size, _needed(len(content))
        is_back = written == read and begin >= max(needed, self._size // 4)
        skips = is_back or begin + needed > self._size
        end = written + needed + (self._size - begin if skips else 0)
        if end - read > self._size:
            return False
        if skips:
            self.cells[(HEAD + begin) // CELL] = SKIP
            begin = 0
        at = HEAD + begin
        self.cells[at // CELL] = len(content)
        self._memory[at + CELL : at + CELL + len(content)] = content
        self._order()
        self.cells[WRITTEN] = end
        return True

    def take(self, most: int) -> list[bytes]:
        """Remove the oldest contents, at most `most`."""
        written, position = self.cells[WRITTEN], self.cells[READ]
        self._order()
        contents: list[bytes] = []
        while position != written and len(contents) < most:
            begin = position % self._size
            at = HEAD + begin
            length = self.cells[at // CELL]
            if length == SKIP:
                position += self._size - begin
                continue
            contents.append(self._memory[at + CELL : at + CELL + length])
            position += _needed(length)
        self._order()
        self.cells[READ] = position
        return contents

    def close(self) -> None:
        self.cells.release()
        self._memory.close()


def _needed(length: int) -> int:
    """Bytes in the queue of a content of this length."""
    return CELL + -(-length // CELL) * CELL
