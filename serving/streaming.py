"""`SearchStream`: many requests of one call in flight, answered in their order.

One thread reads requests and submits them, as many as the window allows; the call's own thread waits
for the answers in turn, leading batches where nobody else does. While the window is full nothing is read, and
HTTP/2's flow control holds the client back.
"""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from protos import retrieval_pb2 as wire
from serving.batching import BatchingCore, Job

_End = Exception | None  # why no more requests come; None where the client has no more


class Window:
    """How many requests may be between reading and answering; `close` lets a waiting reader go."""

    def __init__(self, size: int) -> None:
        self._places = threading.Semaphore(size)
        self._closed = False

    def enter(self) -> bool:
        """Wait for a place; False where there is no use in reading on."""
        self._places.acquire()
        return not self._closed

    def leave(self) -> None:
        """Give a place back."""
        self._places.release()

    def close(self) -> None:
        """No more requests are wanted."""
        self._closed = True
        self._places.release()


def answer_in_order(
    requests: Iterator[wire.SearchRequest],
    to_job: Callable[[wire.SearchRequest], Job],
    core: BatchingCore,
    window: int,
) -> Iterator[Job]:
    """Each request's finished job, in the order of the requests.

    Args:
        requests: of the client, in a thread of their own.
        to_job: what each becomes.
        core: that answers.
        window: requests in flight at once.

    Raises:
        TwinspireError, NobodyWaits: what is wrong with a request, after the answers to those before it.
    """
    places = Window(window)
    read: SimpleQueue[Job | _End] = SimpleQueue()

    def read_on() -> None:
        end: _End = None
        try:
            for request in requests:
                if not places.enter():
                    break
                job = to_job(request)
                core.submit(job)
                read.put(job)
        except Exception as error:
            end = error
        read.put(end)

    threading.Thread(target=read_on, name="stream", daemon=True).start()
    try:
        while isinstance(each := read.get(), Job):
            core.wait(each)
            places.leave()
            yield each
        if each is not None:
            raise each
    finally:
        places.close()
