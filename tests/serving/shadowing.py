"""What tests of the shadow share: a champion's answers as a worker offers them, and the board around them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protos import retrieval_pb2 as wire
from serving import convert
from serving.answer import Timing
from serving.board import Board
from serving.limits import Limits
from serving.packed import PackedCatalogue
from serving.query import Query
from serving.retriever import Retriever
from serving.shadow.channel import Channel, ShadowTap
from serving.shadow.process import Shadow


class Champion:
    """A bundle that answers as a worker does."""

    def __init__(self, folder: Path) -> None:
        self.retriever = Retriever.load(folder)
        self.version = self.retriever.manifest.bundle_version
        self._packed = PackedCatalogue(self.retriever.catalogue)

    def answer(self, request: wire.SearchRequest) -> bytes:
        query = convert.query_from_wire(request.query, "query")
        encoded = self.retriever.encode([query])
        wanted = self.retriever.wanted(Limits().k(request.k), request.exclude, request.exclude_history)
        (found,) = self.retriever.find(encoded, [wanted])
        return self._packed.response(found, self.version, Timing(3, encoded.encode_us, 20))


class Scene:
    """A board, a channel with one worker, and a shadow that works when it is told to."""

    def __init__(self) -> None:
        self.channel = Channel.create(workers=1)
        self.tap: ShadowTap = self.channel.tap(0, share=1.0)
        self.board = Board.create(("target", "shadow target", "shadow"))
        self.shadow = self.another()
        self._serial = 0

    def another(self) -> Shadow:
        """A shadow that begins, as its process does."""
        shadow = Shadow(self.channel, self.board, "models:/tiny@challenger", Limits())
        shadow.resume()
        return shadow

    def serve(self, version: str) -> None:
        """Another champion is to be swapped in."""
        self._serial += 1
        champion = {"folder": "", "bundle_version": version, "model_version": "1"}
        self.board.write("target", {"serial": self._serial, "champion": champion, "canary": None})

    def challenge(self, folder: Path, version: str) -> None:
        """Another challenger is to be asked."""
        self._serial += 1
        wanted = {"folder": str(folder), "bundle_version": version, "model_version": "2"}
        self.board.write("shadow target", {"serial": self._serial, **wanted})

    def offer(self, champion: Champion, *requests: wire.SearchRequest, batch: int = 1) -> None:
        for request in requests:
            assert self.tap.wants()
            self.tap.offer(request, champion.answer(request), batch)

    def note(self) -> dict[str, Any]:
        """What the shadow tells once it has done what there is to do."""
        while self.channel.wait(0):
            self.shadow.step(0)
        self.shadow.step(0)
        return self.board.read("shadow")


def asked(*texts: str, k: int = 10) -> list[wire.SearchRequest]:
    """Searches for texts."""
    return [wire.SearchRequest(query=convert.query_to_wire(Query(text=text)), k=k) for text in texts]


def wait_until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
