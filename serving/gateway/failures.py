"""gRPC status to HTTP: the status code, the JSON body, and the header `Retry-After`."""

import json
import logging
import math
import re
import time
from typing import Any

import grpc

from twinspire.serving.client.failures import TOO_LARGE as TOO_LARGE_TEXT
from twinspire.serving.wire.status import NO_RETRY, PUSHBACK

log = logging.getLogger(__name__)

# As grpc-gateway maps them (runtime/errors.go, HTTPStatusFromCode).
HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}
UNREACHABLE = "the service cannot be reached; the gateway's log says why"
CONNECTION_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)
ADDRESS = re.compile(
    r"failed to connect|errors resolving|resolution failed|\b(?:ipv[46]|unix|unix-abstract|dns|vsock|xds):",
    re.IGNORECASE,
)
TOO_LARGE, WRONG_TYPE, NOT_ALLOWED, TOO_SLOW, MISDIRECTED = 413, 415, 405, 408, 421
# Of requests that are at fault: not 408, 409 and the like, which a proper client meets as well.
FAULTS = (400, 404, NOT_ALLOWED, TOO_LARGE, WRONG_TYPE, MISDIRECTED)
# Codes given before the service's rate limit counts the call.
UNPAID = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
CLOSE = {"connection": "close"}  # for responses before the end of the body, the rest of which is not read


class HttpFailure(Exception):
    """A request that failed.

    Args:
        code: of gRPC.
        http: status; if not given, that of the code.
        headers: of the response, beside those that each has.
        is_counted: whether the service has counted the request for its rate limit.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        http: int | None = None,
        headers: dict[str, str] | None = None,
        is_counted: bool = False,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.is_counted = code, message, is_counted
        self.http = HTTP_STATUS[code] if http is None else http
        self.headers = dict(headers or {})
        if code is grpc.StatusCode.UNAUTHENTICATED:
            self.headers.setdefault("www-authenticate", "Bearer")

    @property
    def is_refusal(self) -> bool:
        """Whether the request was at fault, and has cost its client nothing of the service's rate limit."""
        return self.code in UNPAID or (self.http in FAULTS and not self.is_counted)

    @property
    def body(self) -> bytes:
        """The body of the response, JSON."""
        document = {"error": {"code": self.code.name, "message": self.message}}
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def invalid(message: str, http: int | None = None) -> HttpFailure:
    """A request that cannot be understood."""
    return HttpFailure(grpc.StatusCode.INVALID_ARGUMENT, message, http)


def failure_of(error: Any, prefix: str = "") -> HttpFailure:
    """A failed call of gRPC.

    gRPC's own texts about a connection hold the address of the service, so they are only logged.

    Args:
        error: a `grpc.aio.AioRpcError`.
        prefix: of the message, such as the service that failed.
    """
    code, text = error.code(), error.details() or error.code().name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE_TEXT in text:
        return HttpFailure(code, f"{prefix}{text}", TOO_LARGE, is_counted=True)
    if code in CONNECTION_CODES and ADDRESS.search(text):
        _connection_log.write(f"{prefix}{text}")
        return HttpFailure(code, f"{prefix}{UNREACHABLE}")
    headers = {}
    seconds = retry_after(error.trailing_metadata())
    if seconds is not None:
        headers["retry-after"] = str(seconds)
    return HttpFailure(code, f"{prefix}{text}", headers=headers, is_counted=True)


class _ConnectionLog:
    """Logs why a service cannot be reached, at most once a second, so that clients cannot fill the log."""

    def __init__(self) -> None:
        self._written_at = -math.inf

    def write(self, text: str) -> None:
        """Log a text, unless another was logged within the last second."""
        now = time.monotonic()
        if now - self._written_at >= 1:
            self._written_at = now
            log.warning("%s", text)


_connection_log = _ConnectionLog()


def retry_after(trailers: Any) -> int | None:
    """Whole seconds after which a client may retry; None where the service does not say, or forbids it."""
    for name, value in trailers or ():
        if name == PUSHBACK and str(value) != NO_RETRY and str(value).isdecimal():
            return max(1, math.ceil(int(value) / 1000))
    return None
