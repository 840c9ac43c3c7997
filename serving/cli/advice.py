"""What to do about an error of a connection: one sentence for the person at the command line."""

import socket
import ssl

from twinspire.protos.cli import as_typed
from twinspire.protos.errors import ConnectionFailed, NotAuthenticated, TwinspireError
from twinspire.serving.address import is_local
from twinspire.serving.client.failures import ConnectionFault
from twinspire.serving.client.security import Security

TOKEN = "TWINSPIRE_TOKEN"  # environment variable
PROBE_SECONDS = 2.0


def advice_on(error: TwinspireError, address: str, security: Security) -> str:
    """What to do about an error of a client; empty if there is no advice beyond the error's own text.

    Args:
        address: of the server, `host:port`. Where the server has closed a connection without TLS, this
            connects once more, to learn whether the server speaks TLS.
    """
    if isinstance(error, NotAuthenticated):
        return _on_tokens(security)
    if not isinstance(error, ConnectionFailed):
        return ""
    if error.fault == ConnectionFault.REFUSED:
        here = is_local(address)
        start = as_typed("make serve", "serving", "serve")
        return f"is the server running? `{start}` starts one" if here else "is the server running there?"
    if error.fault == ConnectionFault.CLOSED:
        return _on_closed(address, security)
    return {
        ConnectionFault.UNKNOWN_HOST: "check the host in --address",
        ConnectionFault.NOT_TLS: "leave out --tls, --ca and --certificate",
        ConnectionFault.UNTRUSTED: "--ca PEM names the authority that has signed it",
        ConnectionFault.OTHER_NAME: "--server-name NAME says which name its certificate has",
        ConnectionFault.NOT_GRPC: "is it the port of another service, such as that of /metrics?",
    }.get(ConnectionFault(error.fault), "")


def _on_tokens(security: Security) -> str:
    if security.token is None:
        return f"send a token: --token-file FILE, or the environment variable {TOKEN}"
    return f"it is from --token-file, or else from {TOKEN}; its entry belongs into the server's --tokens"


def _on_closed(address: str, security: Security) -> str:
    if not security.encrypted:
        if _speaks_tls(address):
            return "the server speaks TLS: --tls, or --ca PEM where an authority of your own has signed it"
        return ""
    if security.certificate is None:
        return "the server may ask for a certificate of the client: --certificate PEM and --key PEM"
    return "the server may not trust the certificate of --certificate"


def _speaks_tls(address: str) -> bool:
    """Whether the server at an address begins a TLS handshake; its certificate is not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS) as plain:
            plain.settimeout(PROBE_SECONDS)
            with context.wrap_socket(plain, server_hostname=host.strip("[]")):
                return True
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False
