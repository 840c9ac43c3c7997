"""Failed calls of gRPC as errors of `protos.errors`."""

import math
import re
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

import grpc

from twinspire.protos import errors
from twinspire.serving.wire.status import NO_RETRY, PUSHBACK


class ConnectionFault(StrEnum):
    """Why a client has no connection to the server."""

    UNKNOWN_HOST = "the host is not known"
    REFUSED = "connection refused"
    CLOSED = "the server closed the connection at once"
    NOT_TLS = "the server does not speak TLS"
    UNTRUSTED = "the server's certificate is not trusted"
    OTHER_NAME = "the server's certificate is for another name"
    NOT_GRPC = "what listens there does not speak gRPC"
    OTHER = "cannot connect"


# gRPC's text for a failed connection; its last part is the cause.
_NO_CONNECTION = re.compile(
    r"failed to connect to all addresses; last error: \w+: (?:ipv4|ipv6|unix)\S+: (.*)"
)
_FAULTS = (  # part of the cause -> fault
    ("Connection refused", ConnectionFault.REFUSED),
    ("WRONG_VERSION_NUMBER", ConnectionFault.NOT_TLS),
    ("CERTIFICATE_VERIFY_FAILED", ConnectionFault.UNTRUSTED),
    ("Hostname Verification Check failed", ConnectionFault.OTHER_NAME),
    ("Failed parsing HTTP/2", ConnectionFault.NOT_GRPC),
    ("Socket closed", ConnectionFault.CLOSED),
    ("Connection reset", ConnectionFault.CLOSED),
)

PATIENCE_SECONDS = 0.1  # to wait before a retry if an overloaded server does not say
TOO_LARGE_FOR_CLIENT = "CLIENT: Received message"
DESERIALIZE_FAILED = "Exception deserializing response"  # of gRPC's client
WRONG_ADDRESS_HINT = "Is it the address of another service, or of an older version?"
TOO_LARGE = "larger than max"  # in gRPC's own text for a message above its bound


def error_from(failure: grpc.RpcError, address: str) -> errors.TwinspireError:
    """A failed call as an error of `protos.errors`; for the client.

    Args:
        failure: that gRPC raised.
    """
    code, text = failure.code(), failure.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return errors.InvalidInput(*_field_and_reason(text))
    if code is grpc.StatusCode.NOT_FOUND:
        return errors.UnknownItem(*_field_and_reason(text))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if TOO_LARGE_FOR_CLIENT in text:
            sizes = text.rpartition("(")[2].rstrip(")")
            reason = f"larger than this client takes: {sizes} bytes; ask for less"
            return errors.InvalidInput("answer", reason)
        if TOO_LARGE in text:
            return errors.InvalidInput("request", text)
        return errors.Overloaded(f"{address}: {text}", _retry_after(failure))
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return errors.NotAuthenticated(f"{address}: {text}")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return errors.NotAuthorised(f"{address}: {text}")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return _no_connection(text, address) or errors.Unavailable(f"{address}: {text}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(f"{address}: gave no answer before the deadline")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.TwinspireError(f"{address}: does not know this call: {text} {WRONG_ADDRESS_HINT}")
    if DESERIALIZE_FAILED in text:
        return errors.Unavailable(no_message(address))
    return errors.TwinspireError(f"{address}: {code.name}: {text}")


def no_message(address: str) -> str:
    """The text of the error for an answer that the client cannot parse."""
    return f"{address}: the response is not a message of this service. {WRONG_ADDRESS_HINT}"


def _no_connection(text: str, address: str) -> errors.ConnectionFailed | None:
    """The error of a call that found no connection, from gRPC's text; None if the call failed otherwise."""
    if text.startswith("errors resolving "):
        fault = ConnectionFault.UNKNOWN_HOST
        return errors.ConnectionFailed(f"{address}: {fault}", fault)
    found = _NO_CONNECTION.match(text)
    if found is None:
        return None
    cause = found[1]
    fault = next((each for part, each in _FAULTS if part in cause), ConnectionFault.OTHER)
    detail = cause.rpartition("CERTIFICATE_VERIFY_FAILED: ")[2].removesuffix(": OK")
    more = f": {detail}" if fault in (ConnectionFault.OTHER, ConnectionFault.UNTRUSTED) else ""
    return errors.ConnectionFailed(f"{address}: {fault}{more}", fault)


def _retry_after(failure: grpc.RpcError) -> float:
    metadata: Any = failure.trailing_metadata()  # the stubs do not declare the pairs
    for name, value in metadata or ():
        if name == PUSHBACK and str(value) == NO_RETRY:
            return math.inf
        if name == PUSHBACK and str(value).isdecimal():
            return int(value) / 1000
    return PATIENCE_SECONDS


def _field_and_reason(text: str) -> tuple[str, str]:
    field, colon, reason = text.partition(": ")
    return (field, reason) if colon else ("request", text)


class StreamStatus:
    """The status with which a stream has ended.

    Of `grpc.aio`, the error that reading a stream raises may have another: INTERNAL, if a request could not
    be sent because the server had ended the stream. https://github.com/grpc/grpc/issues/36066.

    Args:
        call: of `grpc` or of `grpc.aio`, with responses that are a stream.
    """

    def __init__(self, call: Any) -> None:
        self._first: grpc.RpcError | None = None
        if isinstance(call, grpc.aio.Call):
            call.add_done_callback(self._keep)

    def of(self, failure: grpc.RpcError) -> grpc.RpcError:
        """The error with that status, in place of the one that reading the stream has raised."""
        return self._first or failure

    def _keep(self, call: Any) -> None:
        code, trailers, details = map(_finished, (call.code(), call.trailing_metadata(), call.details()))
        self._first = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details, None)


def _finished(result: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for.

    Raises:
        AssertionError: it waits.
    """
    try:
        result.send(None)
    except StopIteration as done:
        return done.value
    result.close()
    raise AssertionError("the status of a call that has ended is not there")
