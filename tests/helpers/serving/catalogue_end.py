"""The end of a channel at which the catalogue's process is in a service."""

from collections.abc import Callable

from twinspire.serving.live.process.frame_server import FrameServer, PendingRequest
from twinspire.serving.live.process.frame_socket import Frame, Peer
from twinspire.serving.live.process.store_client import Channel

Answer = Callable[[Frame], Frame | None]


class Answering:
    """The other end: answers frames as a test says, and remembers which requests were forgotten."""

    def __init__(self, channel: Channel, answer: Answer) -> None:
        self.received: list[Frame] = []
        self.forgotten: list[int | None] = []
        self._answer = answer
        self.server = FrameServer("test", channel, self._take, self._forget)
        self.server.start()

    def _take(self, request: PendingRequest) -> None:
        self.received.append(request.frame)
        answer = self._answer(request.frame)
        if answer is not None:
            request.peer.send(answer)

    def _forget(self, peer: Peer, number: int | None) -> list[PendingRequest]:
        self.forgotten += [] if number is None else [number]
        return []

    def close(self) -> None:
        self.server.stop()
