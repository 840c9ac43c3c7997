"""Who may call a server, and how often: calls are authorised before their messages are read.

guard = Guard(TokenFile(path))
guard.check("/retrieval.v1.Retrieval/Search", metadata)  # the token's name
caller(call)

Workers read the files of tokens and certificates by themselves, when a call or a connection comes. The
supervisor reads them too, because a worker that it starts later inherits their content. If
the files have become unusable by then, the new worker must not go back to the content at the start of the
service, which may name tokens that were revoked since.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twinspire.protos.errors import AccessDenied, NotAuthenticated, NotAuthorised
from twinspire.serving.address import client_of_peer
from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.security.file_watch import Reloaded
from twinspire.serving.security.tls import ServerTls
from twinspire.serving.security.tokens import Role, TokenFile
from twinspire.serving.shared_state import ACCESS, SharedState

log = logging.getLogger(__name__)

LOG_SECONDS = 1.0  # between two log lines about refused calls
LONGEST_NAME = 200  # of a certificate's subject, in code points
SUBJECT = ("x509_common_name", "x509_subject_alternative_name")


class CallingPeer(Protocol):
    """What a call knows of its client."""

    token_name: str | None

    def peer(self) -> str:
        """The address, as gRPC writes it."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """The fields of the client's certificate."""


class Guard:
    """Accepts a call if its token's role includes the role that its method requires.

    The client sends `authorization: Bearer TOKEN` as metadata. Calls of methods for `Role.ANYONE` are not
    checked: their callers are identified by certificate or address, whatever token they send. Refused calls
    are logged once a second, with their number, so that a flood of them costs little.

    Args:
        tokens: that the service knows; if not given, every client may call every method.
    """

    def __init__(self, tokens: TokenFile | None = None) -> None:
        self._tokens = tokens
        self._refused = 0
        self._log_next = 0.0

    def check(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
        """Accept or refuse a call.

        Args:
            method: its path.

        Returns:
            The name of its token; None if the method needs no token.

        Raises:
            NotAuthenticated: there is no token, or it is not valid.
            NotAuthorised: the method requires a higher role.
        """
        if self._tokens is None:
            return None
        needed = self._tokens.role(method)
        if needed is Role.ANYONE:
            return None
        try:
            token = self._tokens.identify(_bearer(metadata))
            if token.rights < needed:
                least = needed.name.lower()
                raise NotAuthorised(
                    f"this method requires the role {least}; the token's role is {token.role}"
                )
        except AccessDenied as error:
            self._log(method, error)
            raise
        return token.name

    def _log(self, method: str, error: AccessDenied) -> None:
        self._refused += 1
        if time.monotonic() >= self._log_next:
            log.warning("%.200r: %s; refused since the last line: %d", method, error, self._refused)
            self._refused, self._log_next = 0, time.monotonic() + LOG_SECONDS


def caller(peer: CallingPeer) -> str:
    """The name of a call's client, for rate limits and logs; call it while the call is open.

    Returns:
        The token's name; without a token, the common name of the client's certificate, or its first
        alternative name; without a certificate, the address without the port. Of an IPv6 address it is the
        first 64 bits, because one client has at least a /64.
    """
    if peer.token_name is not None:
        return peer.token_name
    certificate = peer.auth_context()
    for key in SUBJECT:
        for value in filter(None, certificate.get(key, ())):  # the name in a subject may be empty
            return str(value.decode(errors="replace"))[:LONGEST_NAME]
    return client_of_peer(peer.peer())


def _bearer(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """The token that a client sent.

    Raises:
        NotAuthenticated: there is none, or the metadata has another form.
    """
    given = [str(value) for key, value in metadata if key == "authorization"]
    if not given:
        raise NotAuthenticated("no token; expected the metadata 'authorization: Bearer TOKEN'")
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token:
        raise NotAuthenticated("expected the metadata 'authorization' once, with 'Bearer TOKEN'")
    return token


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
