"""Notifies the service manager that has started this process, such as systemd, of the service's state.

    manager = ServiceManager.from_environment()
    manager.ready("serving at 127.0.0.1:50051")

The protocol is that of sd_notify(3): lines such as `READY=1` in one datagram to the Unix socket that
`NOTIFY_SOCKET` names. Without that variable nothing is sent. A message that cannot be sent is logged once,
and the service goes on.
"""

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Self

log = logging.getLogger(__name__)


class ServiceManager:
    """The connection to the service manager.

    Args:
        address: of its socket: a path, or `@` and a name in Linux's abstract namespace; nothing is sent if it
            is empty.
        expects_pings: whether the manager takes a service without regular pings for hung.
    """

    def __init__(self, address: str = "", expects_pings: bool = False) -> None:
        self._address = address
        self.expects_pings = expects_pings
        self._failed = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """The manager that the environment names.

        Its variables are removed from `environment`, so that child processes do not notify the manager, too.
        """
        address, watchdog, expected_of = (
            environment.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        return cls(address, watchdog.isdecimal() and expected_of in ("", str(os.getpid())))

    def ready(self, status: str) -> None:
        """Report that the service answers; `status` is for `systemctl status`."""
        self._send("READY=1", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """Report that the service takes no more requests, and will end; `status` as of `ready`."""
        self._send("STOPPING=1", f"STATUS={status}")

    def ping_watchdog(self) -> None:
        """Send a ping, if the manager expects pings."""
        if self.expects_pings:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        name = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.setblocking(False)  # a manager that does not read must not stop the service
                connection.sendto(text.encode(), name)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("%s: cannot notify the service manager there: %s", self._address, error)
            self._failed = True
