"""Who is calling, and may they: checked when a call comes in, before its message is read.

guard = Guard(TokenFile(path))
guard.check("/retrieval.v1.Retrieval/Search", metadata)  # the token's name
caller(rpc)
"""

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote

from protos.errors import AccessDenied, NotAuthenticated, NotAuthorised
from serving.address import client_of
from serving.tokens import Role, TokenFile

log = logging.getLogger(__name__)

LOG_SECONDS = 1.0  # between lines that tell of refused calls
LONGEST_NAME = 200  # of a certificate's subject, in code points
SUBJECT = ("x509_common_name", "x509_subject_alternative_name")


class Peer(Protocol):
    """A call, as far as it tells who is at its other end."""

    token_name: str | None

    def peer(self) -> str:
        """The address, as gRPC writes it."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What the client's certificate says."""


class Guard:
    """Lets a call through if its token's role reaches as far as its method.

    The client sends `authorization: Bearer TOKEN` as metadata. Methods for anyone are not looked at
    any further: their callers are known by certificate or address, whatever token they send. So that a flood
    of refused calls costs little, one in a second is logged, and how many there were.

    Args:
        tokens: that the service knows; without any, everybody may do everything.
    """

    def __init__(self, tokens: TokenFile | None = None) -> None:
        self._tokens = tokens
        self._refused = 0
        self._log_next = 0.0

    def check(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
        """Let a call through, or not.

        Args:
            method: its path.
            metadata: that came with it.

        Returns:
            the name of its token, None where none is needed.

        Raises:
            NotAuthenticated: it has no token, or none that counts.
            NotAuthorised: the token's role does not reach as far as the method.
        """
        if self._tokens is None:
            return None
        needed = self._tokens.role(method)
        if needed is Role.ANYONE:
            return None
        try:
            token = self._tokens.identify(_bearer(metadata))
            if token.role < needed:
                role, least = token.role.name.lower(), needed.name.lower()
                raise NotAuthorised(f"this method is for the role {least}; the token's role is {role}")
        except AccessDenied as error:
            self._log(method, error)
            raise
        return token.name

    def _log(self, method: str, error: AccessDenied) -> None:
        self._refused += 1
        if time.monotonic() >= self._log_next:
            log.warning("%.200r: %s; refused since the last line: %d", method, error, self._refused)
            self._refused, self._log_next = 0, time.monotonic() + LOG_SECONDS


def caller(peer: Peer) -> str:
    """Who is calling, for rate limits and logs; while its call is open.

    Returns:
        The token's name; without one, the common name of the client's certificate, or the first of
        its alternative names; without one, the address without its port. Of an IPv6 address it is
        the first 64 bits, since that is what one client has at least.
    """
    if peer.token_name is not None:
        return peer.token_name
    certificate = peer.auth_context()
    for key in SUBJECT:
        for value in filter(None, certificate.get(key, ())):  # a subject may have an empty name
            return str(value.decode(errors="replace"))[:LONGEST_NAME]
    return _host(peer.peer().rpartition(":")[0])


def _bearer(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    given = [str(value) for key, value in metadata if key == "authorization"]
    if not given:
        raise NotAuthenticated("there is no token; expected the metadata 'authorization: Bearer TOKEN'")
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token:
        raise NotAuthenticated("expected the metadata 'authorization' once, with 'Bearer TOKEN'")
    return token


@functools.lru_cache(maxsize=4096)
def _host(peer: str) -> str:
    kind, _, host = unquote(peer).partition(":")
    return client_of(host.strip("[]")) if kind in ("ipv4", "ipv6") else kind  # a Unix socket has no address
