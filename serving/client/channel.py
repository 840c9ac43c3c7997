"""The connection that both clients stand on: where to, protected by what, repeated how often."""

import json
from collections.abc import Iterable
from typing import Any

from protos import retrieval_pb2 as wire
from serving.address import host_of, is_loopback
from serving.client.security import Security
from serving.client.trace import trace_context

SERVICE = wire.DESCRIPTOR.services_by_name["Retrieval"].full_name
TIMEOUT_SECONDS = 5.0

# gRFC A6. A call is tried up to four times, with pauses of about 0.1, 0.2 and 0.4 s between, or of
# what the server's `grpc-retry-pushback-ms` says. One whose request is above gRPC's bound of 256 KiB
# is tried once, and so is a stream from its first answer on.
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
# Lest retries be what keeps a server down: a failure takes one token of a server's, a success gives a
# tenth back, and below half of them nothing is repeated.
THROTTLING = {"maxTokens": 100, "tokenRatio": 0.1}
SERVICE_CONFIG = {
    "methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": RETRIES}],
    "retryThrottling": THROTTLING,
}
OPTIONS = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", -1),  # the answer is as large as what was asked for
    ("grpc.use_local_subchannel_pool", 1),  # each client has a connection, and so a worker, of its own
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

Metadata = Iterable[tuple[str, str | bytes]]


class Connection:
    """What both clients know of the service that they call.

    Args:
        address: `host:port`.
        timeout: seconds that a call may take, unless it says otherwise.
        security: what protects the connection.
        retries: whether gRPC repeats calls.

    Raises:
        InvalidInput: a token would travel in the clear to another machine.
    """

    def __init__(self, address: str, timeout: float, security: Security, retries: bool) -> None:
        self.address = address
        self._timeout = timeout
        self._security = security
        self._retries = retries
        self._authorization = security.authorization(address)

    def open(self, api: Any) -> Any:
        """A channel of `grpc` or of `grpc.aio`.

        Raises:
            DataError: a file of `security` cannot be read, or is not what it should be.
        """
        options: list[tuple[str, Any]] = [*OPTIONS]
        if not self._retries:
            options.append(("grpc.enable_retries", 0))
        if is_loopback(host_of(self.address)):
            options.append(("grpc.enable_http_proxy", 0))  # which would be another machine
        if self._security.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._security.server_name))
        credentials = self._security.credentials()
        if credentials is None:
            return api.insecure_channel(self.address, options=options)
        return api.secure_channel(self.address, credentials, options=options)

    def seconds(self, timeout: float | None) -> float:
        """What a call may take: what it asks for, or the client's default."""
        return self._timeout if timeout is None else timeout

    def metadata(self, given: Metadata = ()) -> tuple[tuple[str, str | bytes], ...]:
        """What goes with a call: the token, what the caller gives, and the caller's trace."""
        given = tuple(given)
        traced = any(name == "traceparent" for name, _ in given)
        return (*self._authorization, *given, *(() if traced else trace_context()))
