"""The end of a channel at which the catalogue's process is in a service."""

from collections.abc import Callable

from twinspire.serving.live.process.frame_socket import Frame, FrameLoop, Peer
from twinspire.serving.live.process.store_client import Channel

Answer = Callable[[Frame], Frame | None]


class Answering:
    """The other end: answers frames as a test says."""

    def __init__(self, channel: Channel, answer: Answer) -> None:
        self.received: list[Frame] = []
        self._channel, self._answer = channel, answer
        self.loop = FrameLoop("test", self._take, lambda peer: None)
        self.loop.watch(channel.receiver, self._accept)
        self.loop.start()

    def _accept(self) -> None:
        for each in self._channel.accept():
            self.loop.add(each)

    def _take(self, peer: Peer, frame: Frame) -> None:
        self.received.append(frame)
        answer = self._answer(frame)
        if answer is not None:
            self.loop.send(peer, answer)

    def close(self) -> None:
        self.loop.stop()
