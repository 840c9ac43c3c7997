"""Closes connections that take a worker's room or time and make no calls.

gRPC's C core accepts connections and reads their frames. The event loop sees a connection only when a call
arrives on it, so it can refuse calls, but not connections without calls. The monitor is a thread that watches
the server's sockets through the file descriptors of the process:

- It closes a connection without a call for `first_call_seconds`. A call without a valid token does not count.
- If one address has more than `connections_per_address`, or all together nearly reach `connections`, it
  closes, of addresses with more than their share, the connections whose last call was longest ago. nginx
  frees its idle connections in the same case.
- It closes a connection that keeps sending without a call. HTTP/2's flow control holds only messages back.
  With other frames (PING, SETTINGS, PRIORITY, unknown ones) a client can keep gRPC's poller reading one
  socket, so that the event loop does not run. The monitor then closes the socket that is being read, as soon
  as that was more than the largest message.

Closed connections count in `twinspire_connections_closed_total`, and are logged once a second. A client that
reconnects endlessly, or sends megabytes at once, still takes time; a proxy or a firewall in front of the
service must stop it. Clients behind one address, such as a proxy's, share its part of the connections.
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
from urllib.parse import unquote

from twinspire.serving.address import client_of
from twinspire.serving.engine.limits import WorkerLimits

log = logging.getLogger(__name__)

# Each check interrupts the event loop's thread, so they are rare until a connection has been closed.
TICK_SECONDS, ALERT_TICK_SECONDS = 0.1, 0.04  # between checks of the event loop
SWEEP_SECONDS, ALERT_SWEEP_SECONDS = 1.0, 0.2  # between checks of all connections
ALERT_SECONDS = 30.0  # after a connection was closed, in which the checks are frequent
SWEEP_SHARE = 0.05  # of the time for either kind of check of all connections, at most
STALL_SECONDS = 0.1  # in one poll; a poll without events returns after 0.05 s
# Processor time in one poll after which a connection that is still read sends many small frames, and no
# message: reading that takes at most `BYTE_SECONDS` for each byte, even with TLS on a slow processor.
POLL_SECONDS, BYTE_SECONDS = 0.01, 5e-9
FRAME_BYTES = 128 << 10  # of small frames, at least, for which a connection is closed then
# That a client may send before its first call is seen: handshake, header block, and a message as large as
# HTTP/2's first window, 64 KiB.
FIRST_BYTES = 128 << 10
NEARLY_FULL = 3 / 4  # of the connections that a worker accepts
QUIET_SECONDS = 1.0  # without a call, after which a connection may be closed to make room
FORGET_SECONDS = 5.0  # after which the calls of closed connections are deleted
UNKNOWN = -1  # `MonitoredConnection.read_at_call` until the bytes have been read
LOG_SECONDS = 1.0  # between log lines about closed connections, and about failed checks
DRAIN_BYTES = 1 << 20  # unread bytes that one system call discards
DRAINS = 64  # such system calls for one connection, at most
BYTES_RECEIVED = 128  # offset of tcpi_bytes_received in Linux's struct tcp_info, an unsigned 64-bit integer
DESCRIPTORS = Path("/dev/fd")


Endpoint = tuple[str, int]  # the client's end of a connection, as of `endpoint`


def endpoint(address: str, port: int) -> Endpoint:
    """Address and port in one notation: gRPC and the system may write IPv4 as IPv6.

    Raises:
        ValueError: it is no address.
    """
    plain = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    mapped = plain.ipv4_mapped if isinstance(plain, ipaddress.IPv6Address) else None
    return str(mapped or plain), port


@dataclass
class MonitoredConnection:
    """A connection that the server has accepted.

    Args:
        inode: of the socket; identifies it.
        descriptor: of the socket in this process; it may have been reused for another file since.
        peer: the client's end.
        opened: when the monitor first saw it, in `time.perf_counter()` seconds.
        called: when its last call arrived, as of the last check; None before the first call.
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
        """The client to which the connection counts."""
        return client_of(self.peer[0])

    @contextmanager
    def socket(self) -> Iterator[socket.socket | None]:
        """The socket, with a descriptor of its own; None if it is closed."""
        try:
            sock = _duplicate(self.descriptor)
        except OSError:
            yield None
            return
        with sock:
            yield sock if os.fstat(sock.fileno()).st_ino == self.inode else None

    def read_bytes(self) -> tuple[int, int]:
        """Lower and upper bound of the bytes that gRPC has read from it; more may arrive meanwhile.

        Both are 0 if the system does not report them.
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
    """Watches the connections of one server until it is stopped.

    Args:
        port: that the server listens on.
        bounds: of a worker.
        max_message_bytes: size of the largest message that the server takes, in bytes.
        heartbeat: polls of the event loop; while the number does not grow, the loop is busy or stuck.
        last_calls: peer of a call, as gRPC writes it -> when its last call or message arrived, in
            `time.perf_counter_ns()`. The event loop adds to it; the monitor removes closed connections.
        closed: called with the reason for each connection that is closed: `first_call`, `address`, `full` or
            `flood`.
        used: processor seconds of the event loop's thread; if not given, time in a poll is only measured by
            the clock.
    """

    def __init__(
        self,
        port: int,
        bounds: WorkerLimits,
        max_message_bytes: int,
        heartbeat: Callable[[], float],
        last_calls: MutableMapping[bytes, int],
        closed: Callable[[str], None] = lambda reason: None,
        used: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._port, self._bounds, self._heartbeat = port, bounds, heartbeat
        self._last_calls, self._closed, self._used = last_calls, closed, used
        self._message_bytes = max_message_bytes
        # Since the last call: the messages of as many calls as a connection may have may still be arriving.
        self._quiet_bytes = (bounds.calls + 1) * max_message_bytes
        self._connections: dict[int, MonitoredConnection | None] = {}  # by inode; None if it is no client's
        # Of one poll that lasts long: heartbeat, and by inode the bytes read when that was found, and lately.
        self._stall_beat = -1.0
        self._read_first: dict[int, int] = {}
        self._read_last: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection-monitor", daemon=True)
        self._alert_until = -ALERT_SECONDS
        self._log_at = self._failed_at = -LOG_SECONDS
        self._unlogged: Counter[str] = Counter()
        self._last_closed = ""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and return when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        beat, since, used, next_sweep, next_stall = -1.0, 0.0, 0.0, 0.0, 0.0
        while not self._stop.wait(self._tick_seconds()):
            now = time.perf_counter()
            try:
                if beat != (beat := self._heartbeat()):
                    since, used = now, self._used()
                elif now >= next_stall and (
                    now - since >= STALL_SECONDS or self._used() - used >= POLL_SECONDS
                ):
                    self._break_stall(beat, self._used() - used)
                    next_stall = _next_check(now, 0.0)
                if now >= next_sweep:
                    next_sweep = now + SWEEP_SECONDS  # if the sweep fails
                    began = time.perf_counter()
                    self.sweep()
                    next_sweep = _next_check(
                        began, ALERT_SWEEP_SECONDS if self._is_alert() else SWEEP_SECONDS
                    )
                self._log_closed(now)
            except Exception:
                if now >= self._failed_at + LOG_SECONDS:  # most likely no descriptor is free, for long
                    self._failed_at = now
                    log.exception("the connections could not be checked")

    def _is_alert(self) -> bool:
        return time.perf_counter() < self._alert_until

    def _tick_seconds(self) -> float:
        return ALERT_TICK_SECONDS if self._is_alert() else TICK_SECONDS

    def sweep(self) -> None:
        """Check all connections once, and close those that break a rule."""
        now = time.perf_counter()
        connections = self._update(now)
        called = self._called_at(connections, now)
        remaining = [each for each in connections if not self._closed_by_rule(each, called, now)]
        remaining.sort(key=lambda each: called.get(each.peer, each.opened))
        self._make_room(remaining, called, now)

    def _closed_by_rule(
        self, connection: MonitoredConnection, called: Mapping[Endpoint, float], now: float
    ) -> bool:
        """Close a connection that has made no first call in time, or has sent too much without a call.

        Returns:
            Whether the connection was closed.
        """
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

    def _make_room(
        self, remaining: list[MonitoredConnection], called: Mapping[Endpoint, float], now: float
    ) -> None:
        """Close connections beyond the bounds, in the order of `remaining`: least used ones first.

        A client within its share keeps all its connections, however long they have been quiet.
        """
        of_client = Counter(each.client for each in remaining)
        room = max(1, int(self._bounds.connections * NEARLY_FULL))
        share = room / max(1, len(of_client))
        left = len(remaining)
        for each in remaining:
            is_quiet = now - called.get(each.peer, each.opened) > QUIET_SECONDS
            if of_client[each.client] > self._bounds.connections_per_address:
                reason = "address"
            elif left > room and is_quiet and of_client[each.client] > share:
                reason = "full"
            else:
                continue
            if self._close(each, reason):
                of_client[each.client] -= 1
                left -= 1

    def _break_stall(self, beat: float, used: float = 0.0) -> None:
        """Close the connections whose socket is being read, if the event loop is stuck reading.

        Only the event loop's thread reads. So while one poll lasts, the bytes read from the other connections
        do not change, and during a long batch those of no connection do. A message ends the poll when it is
        complete, which on a busy processor takes long; so a connection may read as many bytes as one has.

        Args:
            beat: value of the heartbeat; while it stays the same, the bytes read are compared with those at
                the calls before.
            used: processor seconds since that value was first seen.
        """
        is_long = used > POLL_SECONDS + BYTE_SECONDS * self._message_bytes
        bound = FRAME_BYTES if is_long else self._message_bytes
        now = time.perf_counter()
        connections = self._update(now)
        called = self._called_at(connections, now) if used > POLL_SECONDS else {}
        if beat != self._stall_beat:
            self._stall_beat, self._read_first, self._read_last = beat, {}, {}
        read = {each.inode: each.read_bytes() for each in connections}
        if self._heartbeat() != beat:
            return
        for each in connections:
            least, most = read[each.inode]
            if used > POLL_SECONDS and each.peer not in called and least > FIRST_BYTES:
                self._close(each, "flood")
                continue
            first = self._read_first.setdefault(each.inode, most)
            last = self._read_last.get(each.inode, most)
            self._read_last[each.inode] = most
            if least > last and least - first > bound:
                self._close(each, "flood")

    def _update(self, now: float) -> list[MonitoredConnection]:
        """Update the list of connections, and return those that are open."""
        found: dict[int, MonitoredConnection | None] = {}
        for inode, descriptor in _sockets():
            if inode in self._connections:
                connection = self._connections[inode]
                if connection is not None:
                    connection.descriptor = descriptor
                found[inode] = connection
                continue
            # No descriptor is free, or the socket was closed meanwhile: the next sweep tries again.
            with suppress(OSError):
                peer = _accepted_from(descriptor, self._port)
                found[inode] = None if peer is None else MonitoredConnection(inode, descriptor, peer, now)
        self._connections = found
        return [each for each in found.values() if each is not None]

    def _called_at(self, connections: list[MonitoredConnection], now: float) -> dict[Endpoint, float]:
        """When the last call of each connection arrived, in `time.perf_counter()` seconds."""
        peers = {each.peer for each in connections}
        called: dict[Endpoint, float] = {}
        for peer, nanoseconds in dict(self._last_calls).items():  # a copy, because the event loop adds to it
            caller, at = _caller(peer), nanoseconds / 1e9
            if caller is not None and caller in peers:
                called[caller] = at
            elif now - at > FORGET_SECONDS:  # a younger call may be of a connection that is not yet known
                self._last_calls.pop(peer, None)
        return called

    def _close(self, connection: MonitoredConnection, reason: str) -> bool:
        """Close a connection; returns whether it was open."""
        with connection.socket() as sock:
            if sock is None:
                return False
            with suppress(OSError):  # there is no more to read, or the client has closed it
                sock.shutdown(socket.SHUT_RDWR)
                # Otherwise gRPC would parse what has been received before.
                for _ in range(DRAINS):
                    if not sock.recv(DRAIN_BYTES, socket.MSG_DONTWAIT | socket.MSG_TRUNC):
                        break
        self._closed(reason)
        self._alert_until = time.perf_counter() + ALERT_SECONDS
        self._unlogged[reason] += 1
        self._last_closed = connection.peer[0]
        return True

    def _log_closed(self, now: float) -> None:
        """Log what has been closed since the last line, if that was `LOG_SECONDS` ago."""
        if self._unlogged and now - self._log_at >= LOG_SECONDS:
            counts = ", ".join(f"{count} {each}" for each, count in self._unlogged.items())
            log.warning("closed connections: %s; the last one from %s", counts, self._last_closed)
            self._unlogged.clear()
            self._log_at = now


def _next_check(began: float, pause: float) -> float:
    """When to check all connections again after a check that ends now; `pause` is the least until then."""
    ended = time.perf_counter()
    return ended + min(SWEEP_SECONDS, max(pause, (ended - began) / SWEEP_SHARE))


def _sockets() -> Iterator[tuple[int, int]]:
    """Inode and descriptor of each socket of this process."""
    for entry in DESCRIPTORS.iterdir():
        descriptor = int(entry.name)
        with suppress(OSError):  # closed meanwhile, like the descriptor of this listing
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                yield status.st_ino, descriptor


def _duplicate(descriptor: int) -> socket.socket:
    """A socket with another descriptor, so that it cannot be replaced while it is examined.

    Raises:
        OSError: the descriptor is closed, or has been reused for something else than a socket.
    """
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _accepted_from(descriptor: int, port: int) -> Endpoint | None:
    """The client's end of a connection to this port; None if the socket is not such a connection.

    Raises:
        OSError: the socket cannot be examined.
    """
    with _duplicate(descriptor) as sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.getsockname()[1] != port:
            return None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        return endpoint(*sock.getpeername()[:2])


def _unread(sock: socket.socket) -> int:
    """Bytes that have been received and not read."""
    return int(struct.unpack("=i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])


@functools.lru_cache(maxsize=8192)
def _caller(peer: bytes) -> Endpoint | None:
    """The client's end, from gRPC's notation: `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    _, _, rest = unquote(peer.decode("ascii", "replace")).partition(":")
    address, _, port = rest.rpartition(":")
    try:
        return endpoint(address, int(port))
    except ValueError:  # gRPC no longer knows the address
        return None
