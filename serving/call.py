"""One request, as its trace and its line in the log tell of it."""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from serving import cells

Metadata = Sequence[tuple[str, str | bytes]]  # as gRPC gives it; names are in lower case

REQUEST_ID = "x-request-id"
LONGEST_ID = 128

_FOREIGN = re.compile(r"[^A-Za-z0-9._:/+=@-]")


@dataclass
class Call:
    """A request that has ended. Made only where somebody wants to know, since making one is not free.

    Args:
        method: bare name, such as `Search`.
        code: name of the gRPC status that it ended with.
        metadata: that came with it.
        started: when its handler began, by `time.perf_counter_ns`.
        ended: when it was done, by the same clock.
        stages: name, start and end of each stage that it went through, by the same clock; names are those of
            `cells.STAGES`. A stage may have begun before the handler: a request waits for its thread.
        caller: who asked, as far as is known.
        k: items asked for.
        queries: that it held.
        batch: queries that it was worked on with, its own included.
        bundle_version: of the bundle that answered.
        texts: of its queries; a trace never tells them, the log only where it was told to.
    """

    method: str
    code: str
    metadata: Metadata = field(repr=False)  # may hold a token
    started: int
    ended: int
    stages: Sequence[tuple[str, int, int]] = ()
    caller: str = ""
    k: int = 0
    queries: int = 0
    batch: int = 0
    bundle_version: str = ""
    texts: Sequence[str] = field(default=(), repr=False)

    @property
    def arrived(self) -> int:
        """When it came in, its wait for a thread included, by `time.perf_counter_ns`."""
        return min([self.started, *(start for _, start, _ in self.stages)])

    @property
    def full_method(self) -> str:
        """The method with its service, as gRPC names it: `retrieval.v1.Retrieval/Search`."""
        service = (
            "inference.GRPCInferenceService" if self.method in cells.INFERENCE else "retrieval.v1.Retrieval"
        )
        return f"{service}/{self.method}"

    @cached_property
    def request_id(self) -> str:
        """The one that the client sent as `x-request-id`, or else a new one.

        Whatever is not a letter, a digit or one of `._:/+=@-` is left out, and what is longer than 128
        characters is cut.
        """
        given = next((value for key, value in self.metadata if key == REQUEST_ID), "")
        if isinstance(given, str) and (clean := _FOREIGN.sub("", given[: 4 * LONGEST_ID])[:LONGEST_ID]):
            return clean
        return uuid.uuid4().hex
