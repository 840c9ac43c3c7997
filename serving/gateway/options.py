"""The configuration of a gateway: addresses, timeouts, security and bounds; each field is a flag."""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinspire.protos.errors import DataError, InvalidInput
from twinspire.serving import flag_types as flags
from twinspire.serving.address import check_target, is_loopback, join
from twinspire.serving.client.security import Security
from twinspire.serving.flag_types import check_positive, option
from twinspire.serving.gateway.messages import MAX_FIELDS

# As browsers write it: a host in lower case, and no port that is the scheme's own.
ORIGIN = re.compile(r"(?:http(?!.*:80$)|https(?!.*:443$))://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?")
ANY_ORIGIN = "*"
HOST_NAME = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class GatewayBounds:
    """Bounds of what clients may ask of one gateway.

    Raises:
        ValueError: a bound is below 1.
    """

    max_body_bytes: int = option(4 << 20, "bytes of a request")
    max_body_fields: int = option(
        MAX_FIELDS,
        "objects and fields in the JSON of a request with items; a "
        "quarter in one with queries, and a sixteenth in one with a single query",
    )
    pending_body_bytes: int = option(
        64 << 20,
        "bytes of all bodies that have begun to arrive and have not been "
        "answered, half of them of one client; more are answered with 503",
    )
    requests: int = option(
        512, "requests in progress at once, half of them of one client; more are answered with 503"
    )
    refused_per_second: int = option(
        50,
        "invalid requests of one client a second, each 64 KiB counting as one; with more, all "
        "of its requests are answered with 429 for a while",
    )
    http_connections: int = option(
        1024,
        "HTTP connections open at once, half of them of one client; more are closed at once",
    )
    connections_per_second: int = option(
        50,
        "new HTTP connections of one client a second, saved up for 2 s; more are closed at once",
    )
    connections: int = option(
        8,
        "connections to a service; each is of one of its workers, and carries 16 calls at once; "
        "half of all are for one client",
    )

    def __post_init__(self) -> None:
        check_positive(self)


@dataclass(frozen=True)
class GatewayOptions:
    """The configuration of a gateway.

    Args:
        security: of the connections to the services; without a token, because each request brings its own.

    Raises:
        InvalidInput: the options contradict each other.
    """

    address: str = option("127.0.0.1:50051", "address of the service, host:port", str)
    compare_address: str | None = option(None, "address of a second service, for /v1/compare", str)
    security: Security = field(default_factory=Security)
    host: str = option("127.0.0.1", "address to listen on", flags.host)
    port: int = option(8080, "port to listen on, 0 for any free one", flags.port)
    timeout: float = option(5.0, "seconds of a request without Request-Timeout", flags.seconds)
    longest_timeout: float = option(
        60.0, "seconds that a Request-Timeout may name, and of a body", flags.seconds
    )
    grace: float = option(10.0, "seconds for requests in progress to finish", flags.seconds)
    access_log: bool = option(False, "log each request with its id, path, status and time")
    port_file: Path | None = option(None, "write the port here once requests are answered", flags.output_file)
    allow_host: tuple[str, ...] = option(
        (),
        "a name without a port by which clients may call it, beside --host and localhost (any, if --host is "
        "no loopback)",
        str,
    )
    image_field: str | None = option(
        None,
        "display field whose values, http(s) URLs or paths of image files, the page shows as images; its "
        "policy allows images from other hosts then",
        str,
    )
    cors_origin: tuple[str, ...] = option(
        (),
        "whose pages may call it from a browser, such as https://shop.example; * for all, but not on "
        "loopback or with --certificate",
        str,
    )
    https_certificate: Path | None = option(None, "the gateway's own certificates, PEM", Path)
    https_key: Path | None = option(None, "the key of the first of them, PEM", Path)
    insecure: bool = option(False, "listen beyond this machine without HTTPS")
    bounds: GatewayBounds = GatewayBounds()

    def __post_init__(self) -> None:
        for address in self.addresses:
            check_target(address)
        if self.security.token is not None:
            raise InvalidInput("security.token", "each request to the gateway brings its own token")
        if (self.https_certificate is None) != (self.https_key is None):
            raise InvalidInput("https_certificate", "expected a certificate and its key, or neither")
        if not (is_loopback(self.host) or self.https_certificate or self.insecure):
            raise InvalidInput(
                "host",
                f"{self.host} can be reached from other machines: give --https-certificate and --https-key, "
                "or --insecure where a proxy or the network protects it",
            )
        if self.image_field == "":
            raise InvalidInput("image_field", "expected the name of a display field, got none")
        for name in self.allow_host:
            if not HOST_NAME.fullmatch(name):
                raise InvalidInput(
                    "allow_host",
                    f"expected a name or an address without a scheme or a port, such as search.example.org "
                    f"or [::1] (--allow-host), got {name!r}",
                )
        for origin in self.cors_origin:
            if origin != ANY_ORIGIN and not ORIGIN.fullmatch(origin):
                raise InvalidInput(
                    "cors_origin",
                    "expected an origin such as https://shop.example, in lower case and without a path, and "
                    f"without the port 443 of https or 80 of http (--cors-origin), got {origin!r}",
                )
        if ANY_ORIGIN in self.cors_origin and (is_loopback(self.host) or self.security.certificate):
            raise InvalidInput(
                "cors_origin",
                "with * any page could call with the rights of this machine, or of --certificate: name the "
                "origins (--cors-origin)",
            )
        bounds = self.bounds
        if bounds.pending_body_bytes < bounds.max_body_bytes:
            raise InvalidInput(
                "pending_body_bytes",
                f"expected at least {bounds.max_body_bytes} (--max-body-bytes), "
                f"got {bounds.pending_body_bytes}",
            )
        if self.timeout > self.longest_timeout:
            raise InvalidInput(
                "timeout",
                f"expected at most {self.longest_timeout:g} s (--longest-timeout), got {self.timeout:g}",
            )

    @property
    def addresses(self) -> list[str]:
        """Those of the services."""
        return [self.address] if self.compare_address is None else [self.address, self.compare_address]

    @property
    def host_names(self) -> frozenset[str] | None:
        """The names that a `Host` header may have, without a port; None for any."""
        if not (self.allow_host or is_loopback(self.host)):
            return None
        own = f"[{self.host}]" if ":" in self.host else self.host
        return frozenset(name.lower() for name in (*self.allow_host, own, *LOOPBACK_NAMES))

    def url(self, port: int) -> str:
        """The gateway's own URL."""
        scheme = "http" if self.https_certificate is None else "https"
        return f"{scheme}://{join(self.host, port)}"

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context of the gateway's own port; None for HTTP.

        Raises:
            DataError: a file cannot be read, or is invalid.
        """
        if self.https_certificate is None:
            return None

        def refuse() -> str:  # instead of waiting for a password on the terminal
            raise DataError(f"{self.https_key}: is encrypted; expected a key without a password")

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.https_certificate, self.https_key, password=refuse)
        except (OSError, ssl.SSLError) as error:
            raise DataError(
                f"{self.https_certificate}, {self.https_key}: cannot be used: {_reason(error)}"
            ) from None
        return context


def _reason(error: Any) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
