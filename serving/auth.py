"""Who is calling, and may they: checked before a request gets a thread or its message is read.

server = grpc.server(pool, interceptors=[TokenInterceptor(TokenFile(path))])

def Search(self, request, context):
    limit.admit(caller(context))
"""

import contextvars
import functools
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc

from protos.errors import AccessDenied, NotAuthenticated, NotAuthorised
from serving.pool import InlinePool
from serving.status import Answering
from serving.tokens import Role, TokenFile

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs alone

# gRPC runs interceptors and handler of a call in one context of its own, on whatever threads.
_token_name: contextvars.ContextVar[str] = contextvars.ContextVar("token_name")

LOG_SECONDS = 1.0  # between lines that tell of refused calls
LONGEST_NAME = 200  # of a certificate's subject, in code points
SUBJECT = ("x509_common_name", "x509_subject_alternative_name")


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Lets a call through if its token's role reaches as far as its method.

    The client sends `authorization: Bearer TOKEN` as metadata. Methods for anyone are not looked at
    any further: their callers are known by certificate or address, whatever token they send.

    A call is refused on the thread that all calls come in by: it takes no place in the queue, and its
    message is not read. So that a flood of them costs little, one in a second is logged, and how many
    there were.

    Args:
        tokens: that the service knows.
    """

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens
        self._pool = InlinePool(1)
        self._refused = 0
        self._log_next = 0.0

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler, or one that refuses: UNAUTHENTICATED or PERMISSION_DENIED."""
        method = handler_call_details.method
        needed = self._tokens.role(method)
        if needed > Role.ANYONE:
            try:
                self._check(needed, handler_call_details.invocation_metadata)
            except AccessDenied as error:
                return self._denial(method, error)
        return continuation(handler_call_details)

    def _check(self, needed: Role, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        token = self._tokens.identify(_bearer(metadata))
        _token_name.set(token.name)
        if token.role < needed:
            role, least = token.role.name.lower(), needed.name.lower()
            raise NotAuthorised(f"this method is for the role {least}; the token's role is {role}")

    def _denial(self, method: str, error: AccessDenied) -> "Handler":
        def deny(requests: object, context: grpc.ServicerContext) -> None:
            self._log(method, error, context)
            with Answering(context):
                raise error

        deny.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        # A client cannot tell how many messages a call might have had that ends with a status alone. A
        # handler of a stream is one that gRPC starts without waiting for a message and holding it.
        return grpc.stream_unary_rpc_method_handler(deny)

    def _log(self, method: str, error: AccessDenied, context: grpc.ServicerContext) -> None:
        self._refused += 1
        if time.monotonic() >= self._log_next:
            log.warning(
                "%s: %.200r: %s; refused since the last line: %d",
                caller(context),
                method,
                error,
                self._refused,
            )
            self._refused, self._log_next = 0, time.monotonic() + LOG_SECONDS


def caller(context: grpc.ServicerContext) -> str:
    """Who is calling, for rate limits and logs; call it where the request is handled.

    Returns:
        The token's name; without one, the common name of the client's certificate, or the first of
        its alternative names; without one, the address without its port. Of an IPv6 address it is
        the first 64 bits, since that is what one client has at least.
    """
    name = _token_name.get(None)
    if name is not None:
        return name
    certificate: Any = context.auth_context()
    for key in SUBJECT:
        for value in filter(None, certificate.get(key, ())):  # a subject may have an empty name
            return str(value.decode(errors="replace"))[:LONGEST_NAME]
    return _host(context.peer().rpartition(":")[0])


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
    if kind == "ipv4":
        return host
    if kind != "ipv6":
        return kind  # a Unix socket's peers have no names
    address = ipaddress.IPv6Address(host.strip("[]").partition("%")[0])
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address) if address.is_loopback else str(ipaddress.ip_network((address, 64), strict=False))
