"""The number of descriptors that a process may have open; each connection takes one."""

import contextlib
import resource


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process, and of those that it starts, to its hard limit.

    Systems set a soft limit of 1,024 for programs that use select(2), which cannot take descriptors above it;
    asyncio and gRPC do not use it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may allow less than its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
