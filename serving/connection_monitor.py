"""Closes connections that take a worker's room or time and make no calls.

gRPC's C core accepts connections and reads their frames by itself. The event loop hears of a connection when
a call of it arrives, so it can refuse calls, but no connection that makes none. The monitor is a thread that
looks at the server's sockets from outside, by the file descriptors of the process:

- A connection that has made no call within `first_call_seconds` is closed. A call without a valid token does
  not count.
- Where one address has more than `connections_per_address`, or all of them together nearly reach
  `connections`, those are closed whose last call was longest ago. nginx frees its idle connections in the
  same situation.
- A connection that goes on sending without a call is closed. HTTP/2's flow control holds only messages back.
  With other frames (PING, SETTINGS, PRIORITY, unknown ones) a client can keep gRPC's poller reading one
  socket, so that the event loop does not run. The monitor then closes the socket that is being read.

Closed connections count in `twinspire_connections_closed_total`, and are logged once a second. A client that
reconnects without end, or sends megabytes at once, still takes time; that is for a proxy or a firewall in
front of the service. Clients behind one address, such as a proxy's, share its part of the connections.
"""

import fcntl
import functools
import ipaddress
import logging
import os
import socket
import stat
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from serving.address import client_of
from serving.limits import Bounds

log = logging.getLogger(__name__)

TICK_SECONDS = 0.04  # between two looks at the event loop
SWEEP_SECONDS = 0.2  # between two looks at all connections, at least
SWEEP_SHARE = 0.05  # of the time, at most, that these looks take; 64 connections take a tenth of that
LONGEST_PAUSE = 1.0  # seconds between them all the same
STALL_SECONDS = 0.1  # for which the poller may stay in one call; without events it returns after 0.05
FIRST_BYTES = 64 << 10  # that a client may send before its first call: a handshake and one header block
NEARLY_FULL = 3 / 4  # of the connections that a worker accepts
QUIET_SECONDS = 1.0  # without a call, after which a connection may be closed to make room
FORGET_SECONDS = 5.0  # after which a call of a connection that is not open is forgotten
UNKNOWN = -1
LOG_SECONDS = 1.0  # between two lines about closed connections
DRAIN_BYTES = 1 << 20  # unread bytes that are thrown away in one call, and how many calls there are at most
DRAINS = 64
BYTES_RECEIVED = 128  # offset of tcpi_bytes_received in Linux's struct tcp_info, an unsigned 64-bit integer
DESCRIPTORS = Path("/dev/fd")


class Endpoint(NamedTuple):
    """The client's end of a connection; gRPC and the system may write its address in different ways."""

    address: str
    port: int

    @classmethod
    def of(cls, address: str, port: int) -> "Endpoint":
        """The one way to write it: an IPv4 address as such, also where a socket of IPv6 has accepted it."""
        plain = ipaddress.ip_address(address.strip("[]").partition("%")[0])
        mapped = plain.ipv4_mapped if isinstance(plain, ipaddress.IPv6Address) else None
        return cls(str(mapped or plain), port)


@dataclass
class Connection:
    """A connection that the server has accepted.

    Args:
        inode: of the socket, which tells it from all others.
        descriptor: of the socket, in this process; it may be another's by now.
        peer: the client's end.
        opened: when the monitor first saw it, in `time.perf_counter()` seconds.
        called: when its last call came, at the last look; None before the first call.
        read_at_call: bytes that gRPC had read from it when that call was seen.
    """

    inode: int
    descriptor: int
    peer: Endpoint
    opened: float
    called: float | None = None
    read_at_call: int = 0

    @property
    def client(self) -> str:
        """The client that it is counted for."""
        return client_of(self.peer.address)

    @contextmanager
    def socket(self) -> Iterator[socket.socket | None]:
        """The socket, by a descriptor of its own; None if it is closed."""
        with _duplicate(self.descriptor) as sock:
            is_same = sock is not None and os.fstat(sock.fileno()).st_ino == self.inode
            yield sock if is_same else None

    def read_bytes(self) -> tuple[int, int]:
        """Bytes that gRPC has read from it: at least, and at most, for more may arrive meanwhile.

        Both are 0 where the system does not tell.
        """
        with self.socket() as sock:
            if sock is None or not hasattr(socket, "TCP_INFO"):
                return 0, 0
            before = _unread(sock)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED + 8)
            if len(info) < BYTES_RECEIVED + 8:
                return 0, 0
            (received,) = struct.unpack_from("=Q", info, BYTES_RECEIVED)
            after = _unread(sock)
            return received - max(before, after), received - min(before, after)


class ConnectionMonitor:
    """Looks at the connections of one server until it is stopped.

    Args:
        port: that the server listens on.
        bounds: of a worker.
        max_message_bytes: size of the largest message that the server takes, in bytes.
        heartbeat: counts the turns of the event loop; while it stands still, the loop is at work or stuck.
        last_calls: peer of a call, as gRPC writes it -> when its last call or message arrived, in
            `time.perf_counter_ns()`. The event loop adds to it, and the monitor removes what is over.
        closed: called with the reason for each connection that is closed: `first_call`, `address`, `full` or
            `flood`.
    """

    def __init__(
        self,
        port: int,
        bounds: Bounds,
        max_message_bytes: int,
        heartbeat: Callable[[], float],
        last_calls: MutableMapping[bytes, int],
        closed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._port, self._bounds, self._heartbeat = port, bounds, heartbeat
        self._last_calls, self._closed = last_calls, closed
        # Since the last call: the messages of as many calls as a connection may have may still be arriving.
        self._quiet_bytes = (bounds.calls + 1) * max_message_bytes
        self._connections: dict[int, Connection | None] = {}  # by inode; None is a socket of something else
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection-monitor", daemon=True)
        self._log_at = -LOG_SECONDS
        self._unlogged: Counter[str] = Counter()
        self._last_closed = ""

    def start(self) -> None:
        """Look at connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look at no more, and return when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        beat, since, next_sweep = -1.0, 0.0, 0.0
        while not self._stop.wait(TICK_SECONDS):
            now = time.perf_counter()
            try:
                if beat != (beat := self._heartbeat()):
                    since = now
                elif now - since >= STALL_SECONDS:
                    self._break_stall(beat)
                if now >= next_sweep:
                    next_sweep = now + LONGEST_PAUSE  # where the sweep fails
                    self.sweep()
                    ended = time.perf_counter()
                    next_sweep = ended + min(LONGEST_PAUSE, max(SWEEP_SECONDS, (ended - now) / SWEEP_SHARE))
                self._log_closed(now)
            except Exception:
                log.exception("the connections could not be looked at")

    def sweep(self) -> None:
        """Look at all connections once, and close those that break a rule."""
        now = time.perf_counter()
        connections = self._update(now)
        called = self._called_at(connections, now)
        remaining = [each for each in connections if not self._breaks_rule(each, called, now)]
        remaining.sort(key=lambda each: called.get(each.peer, each.opened))
        self._make_room(remaining, called, now)

    def _breaks_rule(self, connection: Connection, called: Mapping[Endpoint, float], now: float) -> bool:
        """Close a connection that has been without a call for too long, or has sent too much without one."""
        last = called.get(connection.peer)
        if last is None:
            if now - connection.opened > self._bounds.first_call_seconds:
                return self._close(connection, "first_call")
            return connection.read_bytes()[0] > FIRST_BYTES and self._close(connection, "flood")
        if last != connection.called:
            connection.called, connection.read_at_call = last, UNKNOWN
        if now - last <= QUIET_SECONDS:
            return False
        read, _ = connection.read_bytes()
        if connection.read_at_call == UNKNOWN:
            connection.read_at_call = read
        return read - connection.read_at_call > self._quiet_bytes and self._close(connection, "flood")

    def _make_room(self, remaining: list[Connection], called: Mapping[Endpoint, float], now: float) -> None:
        """Close those whose last call was longest ago, by address and in all; the list begins with them."""
        of_client = Counter(each.client for each in remaining)
        room = max(1, int(self._bounds.connections * NEARLY_FULL))
        left = len(remaining)
        for each in remaining:
            is_quiet = now - called.get(each.peer, each.opened) > QUIET_SECONDS
            if of_client[each.client] > self._bounds.connections_per_address:
                reason = "address"
            elif left > room and is_quiet:
                reason = "full"
            else:
                continue
            if self._close(each, reason):
                of_client[each.client] -= 1
                left -= 1

    def _break_stall(self, beat: float) -> None:
        """Close the connections whose socket is being read, if the event loop is stuck reading.

        The event loop's thread is the only one that reads. So in one call of the poller the bytes of other
        connections stay where they are, and in a long batch those of all of them do.
        """
        connections = self._update(time.perf_counter())
        growing = {id(each): each.read_bytes() for each in connections}
        for _ in range(2):
            if self._stop.wait(TICK_SECONDS) or self._heartbeat() != beat:
                return
            read = {id(each): each.read_bytes() for each in connections if id(each) in growing}
            growing = {key: after for key, after in read.items() if after[0] > growing[key][1]}
        for each in connections:
            if id(each) in growing:
                self._close(each, "flood")

    def _update(self, now: float) -> list[Connection]:
        """The connections that are open; new ones are noted, and those that have ended forgotten."""
        found: dict[int, Connection | None] = {}
        for inode, descriptor in _sockets():
            if inode in self._connections:
                connection = self._connections[inode]
                if connection is not None:
                    connection.descriptor = descriptor
                found[inode] = connection
                continue
            with suppress(OSError):  # no descriptor is free, or it was closed meanwhile: looked at again
                peer = _accepted_from(descriptor, self._port)
                found[inode] = None if peer is None else Connection(inode, descriptor, peer, now)
        self._connections = found
        return [each for each in found.values() if each is not None]

    def _called_at(self, connections: list[Connection], now: float) -> dict[Endpoint, float]:
        """When the last call of each connection arrived, in `time.perf_counter()` seconds."""
        peers = {each.peer for each in connections}
        called: dict[Endpoint, float] = {}
        for peer, nanoseconds in dict(self._last_calls).items():  # the event loop adds to it meanwhile
            endpoint, at = _endpoint(peer), nanoseconds / 1e9
            if endpoint is not None and endpoint in peers:
                called[endpoint] = at
            elif now - at > FORGET_SECONDS:  # a younger one may be of a connection that is not yet known
                self._last_calls.pop(peer, None)
        return called

    def _close(self, connection: Connection, reason: str) -> bool:
        """Close a connection; whether it was open."""
        with connection.socket() as sock:
            if sock is None:
                return False
            with suppress(OSError):  # all has been read, or the client was faster
                sock.shutdown(socket.SHUT_RDWR)
                # gRPC would go on to parse what has been received before.
                for _ in range(DRAINS):
                    if not sock.recv(DRAIN_BYTES, socket.MSG_DONTWAIT | socket.MSG_TRUNC):
                        break
        self._closed(reason)
        self._unlogged[reason] += 1
        self._last_closed = connection.peer.address
        return True

    def _log_closed(self, now: float) -> None:
        """Log what has been closed since the last line, if that was `LOG_SECONDS` ago."""
        if self._unlogged and now - self._log_at >= LOG_SECONDS:
            counts = ", ".join(f"{count} {each}" for each, count in self._unlogged.items())
            log.warning("closed connections: %s; the last one from %s", counts, self._last_closed)
            self._unlogged.clear()
            self._log_at = now


def _sockets() -> Iterator[tuple[int, int]]:
    """Inode and descriptor of each socket of this process."""
    for entry in DESCRIPTORS.iterdir():
        descriptor = int(entry.name)
        with suppress(OSError):  # closed meanwhile, as the descriptor of this listing is
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                yield status.st_ino, descriptor


@contextmanager
def _duplicate(descriptor: int) -> Iterator[socket.socket | None]:
    """A socket by another descriptor, so that it stays the same one while it is looked at."""
    try:
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        yield None
        return
    with sock:
        yield sock


def _accepted_from(descriptor: int, port: int) -> Endpoint | None:
    """The client's end of a connection to this port; None if the socket is none.

    Raises:
        OSError: the socket cannot be looked at.
    """
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.getsockname()[1] != port:
            return None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        return Endpoint.of(*sock.getpeername()[:2])


def _unread(sock: socket.socket) -> int:
    """Bytes that have been received and not been read."""
    return int(struct.unpack("=i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])


@functools.lru_cache(maxsize=8192)
def _endpoint(peer: bytes) -> Endpoint | None:
    """The client's end, of what gRPC writes: `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    _, _, rest = unquote(peer.decode("ascii", "replace")).partition(":")
    address, _, port = rest.rpartition(":")
    try:
        return Endpoint.of(address, int(port))
    except ValueError:  # gRPC does not know it any more
        return None
