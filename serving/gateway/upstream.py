"""The gateway's connections to one service, and its calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from twinspire.serving.client import protocol
from twinspire.serving.client.security import Security
from twinspire.serving.gateway.fairness import FairPlaces

CONNECT_SECONDS = 5.0  # a busy machine may take long to accept; a closed port refuses at once
CALLS = 16  # of one connection at once, as `serve --calls` has it

Metadata = tuple[tuple[str, str], ...]


class UpstreamMethod:
    """An RPC of the service.

    Attributes:
        path: of gRPC.
        request: the class of its requests.
        response: the class of its responses.
    """

    def __init__(self, descriptor: MethodDescriptor) -> None:
        self.descriptor = descriptor
        self.path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        self.request: type[Message] = GetMessageClass(descriptor.input_type)
        self.response: type[Message] = GetMessageClass(descriptor.output_type)


class Upstream:
    """Connections to one service; it belongs to the event loop in which it is created.

    A connection belongs to one worker of the service and carries 16 calls at once (`serve --calls`), so there
    are several. A call goes by the one with the fewest calls open, and the first of those: a lone client uses
    one connection. The gateway does not retry calls; its response has `Retry-After` instead. Each call needs
    one of `places`, so that none waits inside gRPC, where the calls of all clients stand in one line.

    Args:
        connections: their number; each is opened when it is first used.

    Attributes:
        places: of calls, in fair shares of clients; to be taken before `call`.

    Raises:
        DataError: a file of `security` cannot be read, or is invalid.
    """

    def __init__(self, address: str, security: Security, connections: int) -> None:
        self.address = address
        self.places = FairPlaces(CALLS * connections)
        options = protocol.ClientConnection(
            grpc.aio,
            address,
            protocol.TIMEOUT_SECONDS,
            security,
            retries=False,
            connect_seconds=CONNECT_SECONDS,
        )
        self._channels = [options.open() for _ in range(connections)]
        self._open = [0] * connections
        self._calls: set[Any] = set()
        self._methods: dict[str, list[Any]] = {}
        self._health = [protocol.health_call(each) for each in self._channels]

    @contextmanager
    def call(
        self,
        method: UpstreamMethod,
        request: Message,
        seconds: float,
        metadata: Metadata,
    ) -> Iterator[Any]:
        """A call of gRPC, which is cancelled when the block ends before it; `seconds` is its timeout."""
        with self._slot() as slot:
            call = self._callables(method)[slot](request, timeout=seconds, metadata=metadata)
            self._calls.add(call)
            try:
                yield call
            finally:
                self._calls.discard(call)
                call.cancel()  # nothing happens where it has ended

    async def status(
        self, method: UpstreamMethod, seconds: float, metadata: Metadata
    ) -> tuple[grpc.StatusCode, str]:
        """The status of a call without a message, and its text: whether its client may make such a call.

        A service checks that before it reads a message. The call costs it next to nothing.
        """
        with self._slot() as slot:
            channel: Any = self._channels[slot]
            call = channel.stream_stream(method.path)(iter(()), timeout=seconds, metadata=metadata)
            self._calls.add(call)
            try:
                return await call.code(), await call.details() or ""
            finally:
                self._calls.discard(call)
                call.cancel()

    async def serves(self, seconds: float, metadata: Metadata) -> bool:
        """Whether the service's health is SERVING.

        Raises:
            grpc.RpcError: the service does not answer the health check.
        """
        with self._slot() as slot:
            call = self._health[slot](protocol.HEALTH, timeout=seconds, metadata=metadata)
            return protocol.serves(await call)

    def cancel(self) -> None:
        """Cancel all calls."""
        for call in list(self._calls):
            call.cancel()

    async def close(self) -> None:
        """Close the connections, and end open calls."""
        for channel in self._channels:
            await channel.close()

    @contextmanager
    def _slot(self) -> Iterator[int]:
        """The index of the connection for one more call, which lasts as long as the block."""
        slot = self._open.index(min(self._open))
        self._open[slot] += 1
        try:
            yield slot
        finally:
            self._open[slot] -= 1

    def _callables(self, method: UpstreamMethod) -> list[Any]:
        found = self._methods.get(method.path)
        if found is None:
            found = self._methods[method.path] = [
                channel.unary_unary(
                    method.path,
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )
                for channel in self._channels
            ]
        return found
