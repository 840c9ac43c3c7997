"""What tests of the shadow share: a champion's answers as a worker sends them, and the shared state."""

from pathlib import Path
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.live.live_items import LivePlace
from twinspire.serving.retrieval.answer import Timing
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.response_bytes import ResponseWriter
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.packed_items import PackedItems
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shadow.mirror import MOST_WAITING, TrafficMirror
from twinspire.serving.shadow.process import Shadow
from twinspire.serving.shared_state import SharedState
from twinspire.serving.wire import converters
from twinspire.serving.wire.converters import RequestLimits
from twinspire.serving.wire.filter_converters import compile_filter


class Champion:
    """A bundle that answers as a worker does."""

    def __init__(self, folder: Path) -> None:
        self.retriever = Retriever.load(folder)
        self.version = self.retriever.manifest.bundle_version
        self._packed = ResponseWriter(PackedItems(self.retriever.built.catalogue))

    def answer(self, request: wire.SearchRequest) -> bytes:
        query = converters.query_from_wire(request.query, "query")
        encoded = self.retriever.encode([query])
        compiled = None
        if request.HasField("filter"):
            compiled = compile_filter(request.filter, self.retriever.filters, RequestLimits())
        k, exclude_history = RequestLimits().k(request.k), converters.if_given(request, "exclude_history")
        wanted = self.retriever.search_options(k, request.exclude, exclude_history, compiled)
        (found,) = self.retriever.find(encoded, [wanted])
        return self._packed.response(found, self.version, Timing(3, encoded.encode_us, 20))


class Scene:
    """Shared state, the queue of one worker, and a shadow that works when it is told to."""

    def __init__(self, place: LivePlace | None = None) -> None:
        self.queues = SharedQueues(1, MOST_WAITING)
        self.shared_state = SharedState(("target", "shadow target", "shadow"))
        self.mirror = TrafficMirror(self.queues, self.shared_state, 0, share=1.0, most=1000)
        model = "models:/tiny@challenger"
        self.shadow = Shadow(self.queues, self.shared_state, model, RequestLimits(), place)
        self._serial = 0

    def serve(self, version: str) -> None:
        """Another champion is to be swapped in."""
        self._serial += 1
        champion = {"folder": "", "bundle_version": version, "model_version": "1"}
        self.shared_state.write("target", {"serial": self._serial, "champion": champion, "canary": None})

    def challenge(self, folder: Path, version: str) -> None:
        """Another challenger is to be asked."""
        self._serial += 1
        wanted = {"folder": str(folder), "bundle_version": version, "model_version": "2"}
        self.shared_state.write("shadow target", {"serial": self._serial, **wanted})

    def offer(self, champion: Champion, *requests: wire.SearchRequest) -> None:
        for request in requests:
            assert self.mirror.samples()
            self.mirror.send(request, champion.answer(request))

    def note(self) -> dict[str, Any]:
        """What the shadow tells once it has done what there is to do."""
        while self.queues.wait(0):
            self.shadow.step(0)
        self.shadow.step(0)
        return self.shared_state.read("shadow")


def asked(*texts: str, k: int = 10) -> list[wire.SearchRequest]:
    return [wire.SearchRequest(query=converters.query_to_wire(Query(text=text)), k=k) for text in texts]
