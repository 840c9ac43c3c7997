"""The codes with which calls end, and the code, the text and the retry trailer of each error.

The codes are those of `google.rpc.Code`, which gRPC has, too.
"""

import logging
import math
import uuid
from enum import IntEnum

from twinspire.protos import errors

log = logging.getLogger(__name__)


class Code(IntEnum):
    """How a call has ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CODES: dict[type[errors.TwinspireError], Code] = {
    errors.TwinspireError: Code.INTERNAL,
    errors.InvalidInput: Code.INVALID_ARGUMENT,
    errors.UnknownItem: Code.NOT_FOUND,
    errors.ConfigError: Code.INTERNAL,
    errors.DataError: Code.INTERNAL,
    errors.BundleError: Code.INTERNAL,
    errors.BundleDamaged: Code.INTERNAL,
    errors.BundleTooNew: Code.INTERNAL,
    errors.BundleTooOld: Code.INTERNAL,
    errors.PackageMissing: Code.INTERNAL,
    errors.MissingStage: Code.FAILED_PRECONDITION,
    errors.GateRefused: Code.FAILED_PRECONDITION,
    errors.WriteRefused: Code.FAILED_PRECONDITION,
    errors.AccessDenied: Code.PERMISSION_DENIED,
    errors.NotAuthenticated: Code.UNAUTHENTICATED,
    errors.NotAuthorised: Code.PERMISSION_DENIED,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.ConnectionFailed: Code.UNAVAILABLE,
    errors.Overloaded: Code.RESOURCE_EXHAUSTED,
    errors.RateLimited: Code.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
}


# Code points; gRPC drops a status whose text does not fit into 8 KiB of trailers.
LONGEST_FIELD, LONGEST_REASON = 200, 300
# A trailer that gRPC's own clients obey (gRFC A6): milliseconds to wait before a retry, -1 for none.
PUSHBACK = "grpc-retry-pushback-ms"
NO_RETRY = "-1"


class ClientGone(Exception):
    """The client has gone, or the deadline has passed, so no answer is needed."""

    def __init__(self, code: Code, stage: str) -> None:
        super().__init__(f"{code.name.lower()} before {stage}")
        self.code = code


def status(error: Exception) -> tuple[Code, str]:
    """The code and the text for the client.

    An internal error is logged in full under an id, and the client gets only the id.
    """
    if isinstance(error, ClientGone):
        log.debug("skipped: %s", error)
        return error.code, str(error)
    code = CODES.get(type(error), Code.INTERNAL)  # type: ignore[arg-type]
    if code is Code.INTERNAL:
        incident = uuid.uuid4().hex[:12]
        log.error("incident %s", incident, exc_info=error)
        return code, f"internal error; the server's log has it as incident {incident}"
    if isinstance(error, errors.InvalidInput):
        return code, f"{_cut(error.field, LONGEST_FIELD)}: {_cut(error.reason, LONGEST_REASON)}"
    return code, _cut(str(error), LONGEST_REASON)


def trailers(error: Exception) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of an error: when to retry, if the service is overloaded."""
    if isinstance(error, errors.Overloaded):
        if error.retry_after == math.inf:
            return ((PUSHBACK, NO_RETRY),)
        return ((PUSHBACK, str(max(1, math.ceil(error.retry_after * 1000)))),)
    return ()


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
