"""TLS from files that may be replaced while the service runs, and the rule when TLS is required.

tls = ServerTls(TlsFiles(certificate, key, client_ca))  # before the fork; refuses unusable files
server.add_secure_port(address, credentials(tls))       # after the fork
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from twinspire.protos.errors import ConfigError
from twinspire.protos.files.regular_files import open_regular
from twinspire.serving.address import is_loopback
from twinspire.serving.security.file_watch import Reloaded, identities

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """The content of the files, as PEM."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True)
class TlsFiles:
    """The files of a server that speaks TLS, all PEM.

    Attributes:
        certificate: the server's certificate, followed by the intermediate certificates.
        key: the private key of the server's certificate, not encrypted.
        client_ca: authorities; if given, a client must present a certificate that one of them signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are given."""
        given = (self.certificate, self.key, self.client_ca)
        return tuple(path for path in given if path is not None)

    def read(self) -> Material:
        """Read and check the files.

        Raises:
            ConfigError: a file cannot be used; the text names it and the reason.
        """
        before = identities(self.paths)
        certificate, key = _read(self.certificate), _read(self.key)
        _loaded(self.certificate, certificate)
        client_ca = None
        if self.client_ca:
            client_ca = _read(self.client_ca)
            if not _loaded(self.client_ca, client_ca).cert_store_stats()["x509_ca"]:
                raise ConfigError(f"{self.client_ca}: holds no certificate of an authority")
        _check_pair(self.certificate, self.key)
        if identities(self.paths) != before:  # OpenSSL reads the pair itself, and may have read other files
            raise ConfigError(f"{self.certificate}: was replaced while it was read")
        return Material(certificate, key, client_ca)


class ServerTls(Reloaded[Material]):
    """The TLS files of a server, and their last usable content.

    Args:
        files: the files.

    Attributes:
        files: the files.

    Raises:
        ConfigError: a file cannot be used; the text names it and the reason.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        super().__init__(files.paths, files.read, "new connections get the certificate read before")


def credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Credentials for one port, which check the files before every handshake.

    Changed files take effect for new connections; open connections go on. Files that have become unusable are
    logged, and have no other effect.
    """
    configured = tls.content

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal configured
        tls.refresh()
        if tls.content is configured:
            return None
        configured = tls.content
        return _configuration(configured)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(configured),
        fetch,  # type: ignore[arg-type]  # the stubs do not allow None, which means no change
        require_client_authentication=tls.files.client_ca is not None,
    )


def check_exposure(host: str, tls: bool, tokens: bool, allow_insecure: bool, client_ca: bool = False) -> None:
    """Refuse to serve a network without TLS, unless this is explicitly allowed; warn if all may call.

    Args:
        tls: whether the port speaks TLS.
        tokens: whether callers need a token.
        allow_insecure: whether the operator allows it.
        client_ca: whether callers need a certificate.

    Raises:
        ConfigError: other machines could call the service, or read its traffic.
    """
    if is_loopback(host):
        return
    if tls or allow_insecure:
        if not (tokens or client_ca):
            log.warning(
                "%s: any client that reaches this address may call; give --tokens or --client-ca", host
            )
        return
    if tokens:
        reason = "tokens would cross the network unencrypted"
    else:
        reason = "any client that reaches this address could query it, without encryption"
    raise ConfigError(f"{host}: {reason}; give a certificate and its key, or say --insecure")


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:  # a FIFO would block the supervisor
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _loaded(path: Path, pem: bytes) -> ssl.SSLContext:
    """A context with the certificates of a file; raises ConfigError if it holds none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    text = pem.decode("ascii", "backslashreplace")  # a comment beside a certificate may hold any characters
    try:
        context.load_verify_locations(cadata=text)
    except (ValueError, ssl.SSLError):
        raise ConfigError(f"{path}: expected certificates as PEM") from None
    return context


def _check_pair(certificate: Path, key: Path) -> None:
    """Raise ConfigError unless the key is the certificate's, and has no password."""

    def refuse() -> str:
        raise ValueError("is encrypted; expected a key without a password")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key}: is not the key of {certificate}") from None
        raise ConfigError(f"{key}: cannot be used with {certificate}: {error.reason or error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from None
