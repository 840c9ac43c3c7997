"""The end of a channel at which the catalogue's process is in a service."""

from collections.abc import Callable

from twinspire.serving.live.process.frame_server import FrameServer, PendingRequest, RequestQueue
from twinspire.serving.live.process.frame_socket import Channel, Frame

Answer = Callable[[Frame], Frame | None]


class Answering(RequestQueue):
    """The other end: answers frames as a test says."""

    def __init__(self, channel: Channel, answer: Answer) -> None:
        super().__init__(0)
        self.received: list[Frame] = []
        self._answer = answer
        self.server = FrameServer("test", channel, lambda kind: self)
        self.server.start()

    def put(self, request: PendingRequest) -> None:
        self.received.append(request.frame)
        answer = self._answer(request.frame)
        if answer is not None:
            request.peer.send(answer)

    def close(self) -> None:
        self.server.stop()
