"""The record of a call that has ended, for traces."""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from twinspire.serving.engine.front import Metadata

REQUEST_ID = "x-request-id"
LONGEST_ID = 128

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._:/+=@-]")


@dataclass
class CallRecord:
    """A call that has ended. Made only for calls that are traced, because it takes time.

    Args:
        path: of the method, such as `/retrieval.v1.Retrieval/Search`.
        code: name of the status.
        metadata: that the client sent; names are in lower case.
        started: when the call arrived, in `time.perf_counter_ns()`.
        ended: when it ended, by the same clock.
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

    @cached_property
    def request_id(self) -> str:
        """The client's `x-request-id`, or else a new id.

        Only letters, digits and `._:/+=@-` are kept, and at most 128 characters.
        """
        given = next((value for key, value in self.metadata if key == REQUEST_ID), "")
        if isinstance(given, str) and (clean := _NOT_IN_IDS.sub("", given[: 4 * LONGEST_ID])[:LONGEST_ID]):
            return clean
        return uuid.uuid4().hex
