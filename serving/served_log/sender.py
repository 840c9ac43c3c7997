"""Sends the answers that a worker logs, on a thread that waits while the process of the log is behind."""

import threading
import time
from collections import deque

from twinspire.serving.datagrams import DatagramChannel

MOST_WAITING = 64 << 20  # bytes of answers that wait in a worker; more are dropped
MOST_BYTES = 64 << 10  # of a datagram, unless what was added at once has more
GATHER_SECONDS = 0.05  # for which answers gather before they are sent: a wake-up costs as much as several
PATIENCE_SECONDS = 10.0  # for which a datagram waits for room in the socket
CLOSE_SECONDS = 2.0  # for which `close` waits

Parts = tuple[bytes, ...]


class LogSender:
    """Answers that wait to be sent; `add` is for one thread and never waits. Make it after the fork.

    Args:
        channel: to the process of the log.
        slot: of the worker.
    """

    def __init__(self, channel: DatagramChannel, slot: int) -> None:
        self._channel, self._slot = channel, slot
        self._waiting: deque[tuple[int, Parts, int]] = deque()  # bytes, their parts, and how many answers
        self._added = self._sent = 0  # bytes; each is counted by one thread alone
        self._sending = 0  # answers of the datagram that waits for room
        self._wake, self._is_closed, self._has_given_up = threading.Event(), False, False
        self._thread = threading.Thread(target=self._run, name="served log sender", daemon=True)
        self._thread.start()

    def add(self, parts: Parts, answers: int) -> None:
        """Send these parts of some answers soon, or count these as dropped if too many bytes wait."""
        size = sum(map(len, parts))
        if self._added - self._sent + size > MOST_WAITING:
            self._channel.drop(self._slot, answers)
            return
        self._added += size
        self._waiting.append((size, parts, answers))
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Send the waiting answers; those that are not taken within `CLOSE_SECONDS` count as dropped."""
        self._is_closed = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        self._has_given_up = True
        self._channel.drop(self._slot, self._sending + sum(answers for *_, answers in self._waiting))

    def _run(self) -> None:
        while not self._is_closed:
            self._wake.wait()
            if not self._is_closed:
                time.sleep(GATHER_SECONDS)
            self._wake.clear()
            while self._waiting and not self._has_given_up:
                self._send_datagram()

    def _send_datagram(self) -> None:
        parts: list[bytes] = []
        size = answers = 0
        while self._waiting and (not parts or size + self._waiting[0][0] <= MOST_BYTES):
            added, each, count = self._waiting.popleft()
            parts += each
            size += added
            answers += count
        self._sending = answers
        self._channel.send(self._slot, parts, answers, PATIENCE_SECONDS)
        self._sending = 0
        self._sent += size
