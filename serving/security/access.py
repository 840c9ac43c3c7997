"""Who may call a server and how often; and the token and certificate files, which the supervisor watches.

Workers read the files of tokens and certificates by themselves, when a call or a connection comes. The
supervisor reads them too, because a worker that it starts later inherits their content. If
the files have become unusable by then, the new worker must not go back to the content at the start of the
service, which may name tokens that were revoked since.
"""

import logging
from dataclasses import dataclass
from typing import Any

from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.security.file_watch import Reloaded
from twinspire.serving.security.tls import ServerTls
from twinspire.serving.security.tokens import TokenFile
from twinspire.serving.shared_state import ACCESS, SharedState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Who may call a server, and how often.

    Args:
        tls: certificate and key to speak TLS with; if not given, connections are not encrypted.
        tokens: that the service knows; if not given, every client may call every method.
        rate: limit for each client.
    """

    tls: ServerTls | None = None
    tokens: TokenFile | None = None
    rate: RateLimit | None = None

    @property
    def files(self) -> dict[str, Reloaded[Any]]:
        """The files that may be replaced while the service runs."""
        return {name: file for name, file in (("tokens", self.tokens), ("tls", self.tls)) if file}

    def publish(self, shared_state: SharedState) -> None:
        """Read changed files, log that, and write to the entry `ACCESS` which of them cannot be used now.

        For the supervisor, which calls it every second.
        """
        for file in self.files.values():
            if file.refresh():
                log.info("%s: read again", file.paths[0])
        entry = {"stale": {name: bool(file.error) for name, file in self.files.items()}}
        if entry != shared_state.read(ACCESS):
            shared_state.write(ACCESS, entry)

    def state(self) -> dict[str, Any]:
        """The fields of `ServiceState` that describe the protection."""
        return {
            "tls": self.tls is not None,
            "client_certificates": self.tls is not None and self.tls.files.client_ca is not None,
            "tokens": self.tokens is not None,
            "rate_per_second": self.rate.per_second if self.rate is not None else 0.0,
        }
