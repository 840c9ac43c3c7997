"""TLS from files that may be replaced while the service runs, and the rule of when it must be on.

tls = ServerTls(TlsFiles(certificate, key, client_ca))  # refuses what cannot work, before a fork
server.add_secure_port(address, credentials(tls))       # after it
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from protos.errors import ConfigError
from protos.regular import open_regular
from serving.address import is_loopback
from serving.expiry import Certificate, certificates, date
from serving.watch import FileWatch, Reloaded


@dataclass(frozen=True)
class Material:
    """The content of the files, as PEM, and the validity of all certificates in it."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True)
class TlsFiles:
    """The files of a server that speaks TLS, all PEM.

    Attributes:
        certificate: the server's, followed by those between it and its root.
        key: the private key of the first, not encrypted.
        client_ca: if given, a client must show a certificate that one of these has signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        given = (self.certificate, self.key, self.client_ca)
        return tuple(path for path in given if path is not None)

    def read(self) -> Material:
        """What they hold, if a server can work with it.

        Raises:
            ConfigError: which file cannot be used, and why.
        """
        watch = FileWatch(self.paths)
        certificate, key = _read(self.certificate), _read(self.key)
        found, client_ca = certificates(self.certificate, certificate), None
        if self.client_ca:
            client_ca = _read(self.client_ca)
            found += certificates(self.client_ca, client_ca)
            _check_authorities(self.client_ca, client_ca)
        _check_pair(self.certificate, self.key)
        if watch.changed():  # OpenSSL reads the pair by itself: it may have seen another one
            raise ConfigError(f"{self.certificate}: was replaced while it was read")
        return Material(certificate, key, client_ca, found)


class ServerTls(Reloaded[Material]):
    """The TLS files of a server, and the last content of them that it can work with.

    Args:
        files: the files.

    Attributes:
        files: the files.

    Raises:
        ConfigError: which file cannot be used, and why.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        super().__init__(
            files.paths, files.read, _validity, "new connections get the certificate read before"
        )


def credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Credentials for one port, which look at the files before every handshake.

    What has changed counts from the next connection on; connections that are open go on. Files that
    cannot be used by then change nothing but the log.
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
        fetch,  # type: ignore[arg-type]  # the stubs do not know that None means no change
        require_client_authentication=tls.files.client_ca is not None,
    )


def check_exposure(host: str, tls: bool, tokens: bool, allow_insecure: bool) -> None:
    """Refuse to be open to a network in clear, unless told to.

    Args:
        host: to listen on.
        tls: whether the port speaks TLS.
        tokens: whether callers need one.
        allow_insecure: whether somebody has said that this is meant.

    Raises:
        ConfigError: others could reach the service, or read what is sent to it.
    """
    if tls or allow_insecure or is_loopback(host):
        return
    if tokens:
        reason = "tokens would cross the network in clear"
    else:
        reason = "whoever reaches this address could ask, and nothing would be encrypted"
    raise ConfigError(f"{host}: {reason}; give a certificate and its key, or say --insecure")


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:  # a FIFO in its place would block the supervisor
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _validity(material: Material) -> str:
    return f"valid until {date(min(each.not_after for each in material.certificates))}"


def _check_authorities(path: Path, pem: bytes) -> None:
    """Raise ConfigError unless there is an authority's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ValueError, ssl.SSLError):
        raise ConfigError(f"{path}: expected certificates as PEM") from None
    if not context.cert_store_stats()["x509_ca"]:
        raise ConfigError(f"{path}: holds no certificate of an authority")


def _check_pair(certificate: Path, key: Path) -> None:
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
