"""TLS and token of a client: how it authenticates the server and itself."""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from twinspire.protos.errors import DataError, InvalidInput
from twinspire.serving.address import is_local

TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


@dataclass(frozen=True)
class Security:
    """The protection of a connection; by default there is none.

    The files are PEM, and are read when a client is created.

    Args:
        ca: certificates of the authorities that may sign the server's certificate.
        certificate: of the client, with intermediate certificates, for mutual TLS.
        key: of that certificate, not encrypted.
        token: sent with every call as `authorization: Bearer <token>`.
        server_name: name in the server's certificate, if it is not the host of the address.
        tls: encrypt even if no file is given; gRPC's own list of authorities is then used.

    Raises:
        InvalidInput: a certificate without a key, or a key without a certificate; a name without TLS; or a
            token with invalid characters.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)
    server_name: str | None = None
    tls: bool = False

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("security.certificate", "expected a certificate and its key, or neither")
        if self.server_name is not None and not self.encrypted:
            raise InvalidInput("security.server_name", "means nothing without TLS")
        if self.server_name is not None and not self.server_name.isprintable():
            raise InvalidInput("security.server_name", f"expected a name, got {self.server_name!r}")
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise InvalidInput(
                "security.token", "expected letters, digits and -._~+/, with = at the end only"
            )

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.tls or self.ca is not None or self.certificate is not None

    def authorization(self, address: str) -> tuple[tuple[str, str], ...]:
        """The metadata that authenticates the client.

        Raises:
            InvalidInput: the token would be sent to another machine without TLS.
        """
        if self.token is None:
            return ()
        if not self.encrypted and not is_local(address):
            raise InvalidInput("security.token", f"would go to {address} in the clear; use TLS")
        return (("authorization", f"Bearer {self.token}"),)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """The credentials of an encrypted channel; None if it is not encrypted.

        Raises:
            DataError: a file cannot be read, or is invalid; the text names it.
        """
        if not self.encrypted:
            return None
        self._check_files()
        return grpc.ssl_channel_credentials(*map(_content, (self.ca, self.key, self.certificate)))

    def _check_files(self) -> None:
        """Load the files with OpenSSL, whose errors name the cause; gRPC would only fail to connect."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for path in filter(None, (self.ca, self.certificate, self.key)):
            _content(path)
        try:
            if self.ca:
                context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise DataError(f"{self.ca}: expected certificates in PEM: {error}") from None
        try:
            if self.certificate and self.key:
                context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            raise DataError(f"{self.certificate}, {self.key}: no certificate and its key: {error}") from None


def read_token(path: Path) -> str:
    """Read a token from a file, without surrounding white space.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not token:
        raise DataError(f"{path}: expected a token, found none")
    return token


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
