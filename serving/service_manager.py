"""Notifies the service manager that has started this process, such as systemd, of the service's state."""

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(*lines: str) -> None:
    """Send lines such as `READY=1` in one datagram to the Unix socket that `NOTIFY_SOCKET` names.

    The protocol is that of sd_notify(3). Without that variable nothing is sent. A message that cannot be sent
    is logged, and the service goes on.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    name = f"\0{address[1:]}" if address[0] == "@" else address  # "@": Linux's abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)  # a manager that does not read must not stop the service
            connection.sendto("\n".join(lines).encode(), name)
    except OSError as error:
        log.warning("%s: cannot notify the service manager there: %s", address, error)
