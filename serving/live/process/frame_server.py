"""A store's process's end of the frames: the connections of all workers, and the requests that wait."""

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from twinspire.protos.errors import TwinspireError
from twinspire.serving.live.process.frame_socket import ACCEPT_SECONDS, Channel, Frame, FrameKind, Peer
from twinspire.serving.supervisor import WorkerHandle

log = logging.getLogger(__name__)


class PendingRequest(NamedTuple):
    """A request, and the worker that gets the reply.

    Args:
        peer: of the worker.
        frame: with the request.
    """

    peer: Peer
    frame: Frame

    def answer(self, value: int, message: bytes) -> None:
        """Reply; `value` is that of the frame."""
        self.peer.send(Frame(FrameKind.ANSWER, self.frame.number, value, message))

    def refuse(self, error: TwinspireError) -> None:
        """Reply with an error."""
        self.peer.send(Frame(FrameKind.ERROR, self.frame.number, 0, error))


Requests = SimpleQueue[PendingRequest]  # workers bound theirs (`StoreClient`)


def take_group(requests: Requests, seconds: float, items: int) -> list[PendingRequest]:
    """Remove as many requests as one transaction should have.

    Args:
        requests: that wait.
        seconds: to wait for the first.
        items: no request is added to a group that writes as many.
    """
    group, size = list[PendingRequest](), 0
    with suppress(Empty):
        while size < items:
            group.append(requests.get(timeout=0.0 if group else seconds))
            size += group[-1].frame.value
    return group


class FrameServer:
    """The connections of the workers to a store's process.

    Args:
        name: of its threads.
        channel: through which workers connect.
        received: called with each request, on the thread of its worker.
    """

    def __init__(self, name: str, channel: Channel, received: Callable[[PendingRequest], None]) -> None:
        self._name, self._channel = name, channel
        self._received = lambda peer, frame: received(PendingRequest(peer, frame))
        self._peers: set[Peer] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=name, daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def work(self, handle: WorkerHandle, grace: float, step: Callable[[], None]) -> float:
        """Call `step` again and again, until the service stops and the workers have ended their calls.

        Args:
            handle: of the process.
            grace: seconds for the workers to end them.

        Returns:
            When the process must end, by `time.monotonic`.
        """
        stopped, until = handle.stop_event(), math.inf
        while time.monotonic() < until and not (stopped.is_set() and not self._peers):
            if stopped.is_set() and until == math.inf:
                until = time.monotonic() + grace
            step()
        return min(until, time.monotonic() + grace)

    def stop(self) -> None:
        """Close all connections."""
        self._stopped.set()
        self._thread.join()
        for peer in [*self._peers]:
            peer.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                peer = Peer(self._name, self._channel.accept(), self._received, self._peers.discard)
                self._peers.add(peer)
                try:
                    peer.start()
                except RuntimeError:  # too many threads; it is closed, and the worker connects again
                    self._peers.discard(peer)
                    raise
            except TimeoutError:  # no worker connects now
                pass
            except Exception:  # of any kind, such as too many threads or open files
                log.exception("%s: a connection could not be accepted", self._name)
                self._stopped.wait(ACCEPT_SECONDS)
