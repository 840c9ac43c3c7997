"""Network addresses: `host:port`, the name under which an address is limited, and loopback."""

import functools
import ipaddress
from urllib.parse import unquote

from twinspire.protos.errors import InvalidInput

GRPC_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")  # of URIs that gRPC resolves


def join(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(address: str) -> str:
    """The host of `host:port`."""
    return address.rpartition(":")[0].strip("[]")


def check_target(address: str) -> None:
    """Refuse what cannot be the address of a gRPC server.

    Raises:
        InvalidInput: it is a URL, a host without a port, or no text that can be printed.
    """
    if not address.isprintable():  # control characters, and lone surrogates, which cannot be encoded
        raise InvalidInput("address", f"expected host:port, such as 127.0.0.1:50051, got {address!r}")
    scheme, separator, _ = address.partition("://")
    if separator and scheme.lower() not in GRPC_SCHEMES:
        raise InvalidInput("address", f"expected host:port, got the URL {address!r}")
    if ":" not in address:
        raise InvalidInput("address", f"expected host:port, such as 127.0.0.1:50051, got {address!r}")


def client_of(host: str) -> str:
    """The name under which rate limits and limits on connections count the client at an address.

    Args:
        host: an IP address, without a port; an IPv6 address may have a zone.

    Returns:
        An IPv4 address itself, also if it is written as an IPv6 address. For other IPv6 addresses the first
        64 bits, because a client usually has a whole /64. Loopback addresses and names are not changed.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address) if address.is_loopback else str(ipaddress.ip_network((address, 64), strict=False))


def client_of_peer(peer: str) -> str:
    """The client at an address that gRPC writes as `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    return _client_of_place(peer.rpartition(":")[0])


@functools.lru_cache(maxsize=4096)
def _client_of_place(place: str) -> str:
    kind, _, host = unquote(place).partition(":")
    return client_of(host.strip("[]")) if kind in ("ipv4", "ipv6") else kind  # a Unix socket has no address


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`; other names are not resolved."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen_error(error: OSError | UnicodeError) -> str:
    """Why an address cannot be listened on; sockets raise a UnicodeError for a host such as ".."."""
    return "not the name of a host" if isinstance(error, UnicodeError) else error.strerror or str(error)


def is_local(target: str) -> bool:
    """Whether a client of gRPC with this target connects to this machine alone; names are not resolved.

    The target is `host:port`, or a URI with one of `GRPC_SCHEMES`, of which only Unix sockets count as local.
    """
    scheme, _, path = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return bool(path.strip("/")) and (path.startswith("///") or not path.startswith("//"))
    return is_loopback(host_of(target))
