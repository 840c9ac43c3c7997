"""The options of a connection to a service, the client that they make, and what to do about its errors."""

import logging
import os
from argparse import ArgumentParser, Namespace, _ArgumentGroup
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinspire.protos.cli import Result, UsageError, add_command, as_typed
from twinspire.protos.errors import (
    ConnectionFailed,
    DataError,
    InvalidInput,
    NotAuthenticated,
    TwinspireError,
)
from twinspire.serving import flag_types as flags
from twinspire.serving.address import is_local
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.failures import ConnectionFault
from twinspire.serving.client.protocol import TIMEOUT_SECONDS
from twinspire.serving.client.security import Security, read_token

ADDRESS = "127.0.0.1:50051"
TOKEN = "TWINSPIRE_TOKEN"  # environment variable

Run = Callable[[Namespace, RetrievalClient], Result | None]


def add_client_command(commands: Any, name: str, text: str, run: Run, seconds: float = 0.0) -> ArgumentParser:
    """Add a command that uses a client.

    Args:
        run: the command, which is given a client by its options.
        seconds: the default of its option `--timeout`; it has none if 0.
    """

    def command(arguments: Namespace) -> Result | None:
        with connect(arguments) as client:
            return run(arguments, client)

    parser = add_command(commands, name, text, command)
    add = parser.add_argument
    add("--address", default=ADDRESS, help="address of the server (%(default)s)")
    if seconds:
        text = "timeout of a call (%(default)s)"
        add("--timeout", type=flags.seconds, default=seconds, metavar="SECONDS", help=text)
    group = parser.add_argument_group(
        "security", "The token may also come from the environment, as TWINSPIRE_TOKEN."
    )
    add_security(group)
    group.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token to send")
    return parser


def add_security(group: _ArgumentGroup) -> None:
    """Add the options that protect a connection."""
    add = group.add_argument
    add("--tls", action="store_true", help="use TLS; --ca and --certificate imply it")
    add("--ca", type=Path, metavar="PEM", help="authorities of the server's certificate (gRPC's own list)")
    add("--certificate", type=Path, metavar="PEM", help="certificate of this client, for mutual TLS")
    add("--key", type=Path, metavar="PEM", help="key of that certificate")
    add("--server-name", metavar="NAME", help="name in the server's certificate (the host of --address)")


def security_of(arguments: Namespace, token: str | None = None) -> Security:
    """The protection by the options of `add_security`; errors as of `Security`."""
    names = ("ca", "certificate", "key", "server_name", "tls")
    return Security(token=token, **{name: getattr(arguments, name) for name in names})


@contextmanager
def connect(arguments: Namespace) -> Iterator[RetrievalClient]:
    """A client by the options of a command; advice is added to errors of the connection as a note.

    Raises:
        DataError: a file cannot be read.
        UsageError: the arguments contradict each other.
    """
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)  # it logs tracebacks of answers of others
    try:
        security = security_of(arguments, _token(arguments.token_file))
        client = RetrievalClient(
            arguments.address, getattr(arguments, "timeout", None) or TIMEOUT_SECONDS, security
        )
    except InvalidInput as error:
        is_url = error.field == "address" and arguments.address.startswith(("https:", "grpcs:"))
        raise UsageError(f"{error}; --tls encrypts" if is_url else str(error)) from None
    with client:
        try:
            yield client
        except TwinspireError as error:
            if advice := advice_on(error, arguments.address, security):
                error.add_note(advice)
            raise


def advice_on(error: TwinspireError, address: str, security: Security) -> str:
    """What to do about an error of a client; empty if there is no advice beyond the error's own text.

    Args:
        address: of the server, `host:port`.
    """
    if isinstance(error, NotAuthenticated):
        if security.token is None:
            return f"send a token: --token-file FILE, or the environment variable {TOKEN}"
        return f"it is from --token-file, or else from {TOKEN}; its entry belongs into the server's --tokens"
    if not isinstance(error, ConnectionFailed):
        return ""
    if error.fault == ConnectionFault.REFUSED:
        here = is_local(address)
        start = as_typed("make serve", "serving", "serve")
        return f"is the server running? `{start}` starts one" if here else "is the server running there?"
    closed = "does the server speak TLS? --tls, or --ca PEM where an authority of your own has signed it"
    if security.certificate is not None:
        closed = "the server may not trust the certificate of --certificate"
    elif security.encrypted:
        closed = "the server may ask for a certificate of the client: --certificate PEM and --key PEM"
    return {
        ConnectionFault.CLOSED: closed,
        ConnectionFault.UNKNOWN_HOST: "check the host in --address",
        ConnectionFault.NOT_TLS: "leave out --tls, --ca and --certificate",
        ConnectionFault.UNTRUSTED: "--ca PEM names the authority that has signed it",
        ConnectionFault.OTHER_NAME: "--server-name NAME says which name its certificate has",
        ConnectionFault.NOT_GRPC: "is it the port of another service, such as that of /metrics?",
    }.get(ConnectionFault(error.fault), "")


def _token(path: Path | None) -> str | None:
    try:
        return read_token(path) if path else os.environ.get(TOKEN) or None
    except DataError as error:
        error.add_note(f"`python -m twinspire.serving token --name NAME > {path}` makes a token")
        raise
