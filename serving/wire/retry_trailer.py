"""The trailer that tells a client when to try again."""

import math

from protos import errors

# A trailer that gRPC's own clients obey (gRFC A6): milliseconds to wait before a retry, -1 for none.
PUSHBACK = "grpc-retry-pushback-ms"
NO_RETRY = "-1"


def trailers(error: Exception) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of an error: when to retry, if the service is overloaded."""
    if isinstance(error, errors.Overloaded):
        if error.retry_after == math.inf:
            return ((PUSHBACK, NO_RETRY),)
        return ((PUSHBACK, str(max(1, math.ceil(error.retry_after * 1000)))),)
    return ()
