"""The end of a channel at which the catalogue's process is in a service."""

from collections.abc import Callable

from twinspire.serving.live.process.frames import Channel, Frame, FrameServer, PendingRequest

Answer = Callable[[Frame], Frame | None]


class Answering:
    """The other end: answers frames as a test says."""

    def __init__(self, channel: Channel, answer: Answer) -> None:
        self.received: list[Frame] = []
        self._answer = answer
        self.server = FrameServer("test", channel, self._take)
        self.server.start()

    def close(self) -> None:
        self.server.stop()

    def _take(self, request: PendingRequest) -> None:
        self.received.append(request.frame)
        answer = self._answer(request.frame)
        if answer is not None:
            request.peer.send(answer)
