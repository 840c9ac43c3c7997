"""What the engine needs of a front: the part of a service that accepts connections and speaks a protocol.

The event loop asks a front for its events, one at a time, on its own thread. An event has a tag: the function
that receives it, or `SHUTDOWN`. No method of a front blocks, except `Front.poll`. The service's front speaks
gRPC (`serving/grpc/core.py`); `tests/serving/engine/test_front_contract.py` holds it to its calls.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Metadata = Sequence[tuple[str, str | bytes]]
Trailers = Sequence[tuple[str, str]]
Finished = Callable[[Any], None]  # receives the event of an operation
SHUTDOWN = "shutdown"  # tag of the last event


class FrontCall(Protocol):
    """One call of a client.

    Attributes:
        path: of the method, such as `/retrieval.v1.Retrieval/Search`.
        metadata: that the client sent.
        deadline: in seconds since the epoch.
    """

    path: str
    metadata: Metadata
    deadline: float

    @property
    def connection(self) -> bytes:
        """The client's address; it identifies the connection."""

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """The properties of the client's certificate; empty without one."""

    def cancel(self, reason: str) -> None:
        """End the call with RESOURCE_EXHAUSTED, whatever has been sent."""

    def await_close(self, closed: Finished) -> None:
        """Report the end of the call to `closed`; `was_cancelled` reads the event."""

    def was_cancelled(self, event: Any) -> bool:
        """Whether the call of an event of `await_close` was cancelled by client or deadline."""

    def await_message(self, received: Finished) -> None:
        """Report the next message to `received`; `message` reads the event."""

    def message(self, event: Any) -> bytes | None:
        """The message of an event of `await_message`; None if the client sends no more."""

    def send(self, message: bytes, is_first: bool, more_follow: bool, sent: Finished) -> None:
        """Send a message of a stream; `more_follow` lets the front wait for the next one before it writes."""

    def send_status(
        self,
        code: int,
        details: bytes,
        trailers: Trailers,
        is_first: bool,
        message: bytes | None,
        finished: Finished,
    ) -> None:
        """End the call.

        Args:
            code: number of the status.
            details: its text.
            trailers: metadata to send with it.
            is_first: no message has been sent before.
            message: last message, sent before the status, if there is one.
            finished: receives the event when everything has been written, or the call is over.
        """

    def reject(self, code: int, details: bytes, trailers: Trailers = ()) -> None:
        """End the call before its message is read."""


class Front(Protocol):
    """Accepts calls.

    Attributes:
        poll: waits for the next event until a time in seconds since the epoch, and returns it.
        timeout: `completion_type` of what `poll` returns if there was no event.
        pending_ops: operations that have not been reported; the event loop counts them down.
    """

    poll: Callable[[float], Any]
    timeout: Any
    pending_ops: int

    def listen(self, address: str, credentials: Any = None) -> int:
        """Listen at `host:port`; returns the port, which the system chooses if it is 0.

        Raises:
            Unavailable: the address cannot be used, most likely because another process listens there.
        """

    def start(self) -> None:
        """Accept connections from now on."""

    def await_call(self, arrived: Finished) -> None:
        """Report the next call to `arrived`, once; `call` reads the event."""

    def call(self, event: Any) -> FrontCall | None:
        """The call of an event of `await_call`; None if the front is being shut down."""

    def shut_down(self) -> None:
        """Accept no new call; the event with the tag `SHUTDOWN` follows when all calls have ended."""

    def cancel_all_calls(self) -> None:
        """Cancel the calls that are open."""

    def destroy(self) -> None:
        """Free the front, after `shut_down` has returned and the last event has been polled."""
