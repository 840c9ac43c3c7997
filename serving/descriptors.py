"""The number of descriptors that a process may have open; each connection takes one."""

import contextlib
import logging
import resource

log = logging.getLogger(__name__)


def fitting(connections: int, others: int, flag: str) -> int:
    """The connections that this process may have open, with a descriptor for each; warns if they are fewer.

    The soft limit of this process, and of those that it starts, becomes its hard limit. Systems set a soft
    limit of 1,024 for programs that use select(2), which cannot take descriptors above it; asyncio and gRPC
    do not use it.

    Args:
        connections: that are wanted.
        others: descriptors that the process needs besides.
        flag: that sets their number.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may allow less than its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or connections + others <= most:
        return connections
    found = max(1, most - others)
    log.warning(
        "%s is %d and not %d, because this process may open only %d descriptors; raise the hard limit with "
        "`ulimit -Hn %d`, or LimitNOFILE in the service's unit",
        *(flag, found, connections, most, connections + others),
    )
    return found
