"""The record of a call that has ended, for traces."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from twinspire.serving.engine.front import Metadata


@dataclass
class CallRecord:
    """A call that has ended. Made only for calls that are traced, because it takes time.

    Args:
        path: of the method, such as `/retrieval.v1.Retrieval/Search`.
        code: name of the status.
        metadata: that the client sent; names are in lower case.
        started: when the call arrived, in `time.perf_counter_ns()`.
        ended: when it ended, by the same clock.
        request_id: the client's, or made for the call.
        stages: name, start and end of each stage, by the same clock: queue, encode, search, serialise.
        k: number of items wanted.
        queries: in the call.
        batch: queries in its batch, including its own.
        bundle_version: of the bundle that answered.
    """

    path: str
    code: str
    metadata: Metadata = field(repr=False)  # may hold a token
    started: int
    ended: int
    request_id: str
    stages: Sequence[tuple[str, int, int]] = ()
    k: int = 0
    queries: int = 0
    batch: int = 0
    bundle_version: str = ""

    @property
    def arrived(self) -> int:
        """The earlier of `started` and the start of the first stage, in `time.perf_counter_ns()`."""
        return min([self.started, *(start for _, start, _ in self.stages)])

    @property
    def full_method(self) -> str:
        """The method with its service, as gRPC names it: `retrieval.v1.Retrieval/Search`."""
        return self.path.removeprefix("/")
