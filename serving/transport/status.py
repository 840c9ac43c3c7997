"""Errors to gRPC status and back."""

import logging
import math
import re
import uuid
from enum import StrEnum
from typing import Any

import grpc

from protos import errors

log = logging.getLogger(__name__)

CODES: dict[type[errors.TwinspireError], grpc.StatusCode] = {
    errors.TwinspireError: grpc.StatusCode.INTERNAL,
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownItem: grpc.StatusCode.NOT_FOUND,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.ConfigError: grpc.StatusCode.INTERNAL,
    errors.DataError: grpc.StatusCode.INTERNAL,
    errors.BundleError: grpc.StatusCode.INTERNAL,
    errors.BundleDamaged: grpc.StatusCode.INTERNAL,
    errors.BundleTooNew: grpc.StatusCode.INTERNAL,
    errors.BundleTooOld: grpc.StatusCode.INTERNAL,
    errors.PackageMissing: grpc.StatusCode.INTERNAL,
    errors.MissingStage: grpc.StatusCode.FAILED_PRECONDITION,
    errors.GateRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WriteRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AccessDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotAuthorised: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ConnectionFailed: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}


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

# A trailer that gRPC's own clients obey (gRFC A6): milliseconds to wait before a retry, -1 for none.
PUSHBACK = "grpc-retry-pushback-ms"
NO_RETRY = "-1"
PATIENCE_SECONDS = 0.1  # to wait before a retry if an overloaded server does not say
TOO_LARGE_FOR_CLIENT = "CLIENT: Received message"
DESERIALIZE_FAILED = "Exception deserializing response"  # of gRPC's client
WRONG_ADDRESS_HINT = "Is it the address of another service, or of an older version?"
TOO_LARGE = "larger than max"  # in gRPC's own text for a message above its bound

# Code points; gRPC drops a status whose text does not fit into 8 KiB of trailers.
LONGEST_FIELD, LONGEST_REASON = 200, 300


class ClientGone(Exception):
    """The client has gone, or the deadline has passed, so no answer is needed."""

    def __init__(self, code: grpc.StatusCode, stage: str) -> None:
        super().__init__(f"{code.name.lower()} before {stage}")
        self.code = code


def trailers(error: Exception) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of an error: when to retry, if the service is overloaded."""
    if isinstance(error, errors.Overloaded):
        if error.retry_after == math.inf:
            return ((PUSHBACK, NO_RETRY),)
        return ((PUSHBACK, str(max(1, math.ceil(error.retry_after * 1000)))),)
    return ()


def status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The code and the text for the client.

    An internal error is logged in full under an id, and the client gets only the id.
    """
    if isinstance(error, ClientGone):
        log.debug("skipped: %s", error)
        return error.code, str(error)
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]
    if code is grpc.StatusCode.INTERNAL:
        incident = uuid.uuid4().hex[:12]
        log.error("incident %s", incident, exc_info=error)
        return code, f"internal error; the server's log has it as incident {incident}"
    if isinstance(error, errors.InvalidInput):
        return code, f"{_cut(error.field, LONGEST_FIELD)}: {_cut(error.reason, LONGEST_REASON)}"
    return code, _cut(str(error), LONGEST_REASON)


def error_from(failure: grpc.RpcError, address: str) -> errors.TwinspireError:
    """A failed call as an error of `protos.errors`; for the client.

    Args:
        failure: that gRPC raised.
        address: of the server.
    """
    code, text = failure.code(), failure.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return errors.InvalidInput(*_field_and_reason(text))
    if code is grpc.StatusCode.NOT_FOUND:
        return errors.UnknownItem(*_field_and_reason(text))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if TOO_LARGE_FOR_CLIENT in text:
            sizes = text.rpartition("(")[2].rstrip(")")
            reason = f"larger than this client takes: {sizes} bytes; raise max_answer_bytes, or ask for less"
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


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _field_and_reason(text: str) -> tuple[str, str]:
    field, colon, reason = text.partition(": ")
    return (field, reason) if colon else ("request", text)
