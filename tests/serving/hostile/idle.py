"""The attackers that send nothing, or half of something: connections and calls that stay open."""

import time
from collections.abc import Callable

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.fuzzed_messages import SEARCH
from tests.helpers.serving.raw import head
from tests.serving.hostile.connection import OPEN, Attack, Connection

CONNECTIONS = 1024  # of each attacker
OPENED = 20  # in one tick
TICK = 0.05  # seconds; so 400 connections a second
LOOK = 1.0  # seconds between two looks at which connections the server has closed


def idle_connections(attack: Attack) -> None:
    """1,024 TCP connections that send nothing."""
    _hold(attack, lambda connection: None, preface=False)


def half_frames(attack: Attack) -> None:
    """1,024 connections that stop in the middle of a HEADERS frame."""
    block = head(SEARCH, 10_000)
    whole = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    _hold(attack, lambda connection: connection.send(whole[: len(whole) // 2]))


def prefaces(attack: Attack) -> None:
    """1,024 connections that send the preface and SETTINGS, and then nothing."""
    _hold(attack, lambda connection: None)


def silent_calls(attack: Attack) -> None:
    """64 connections with 16 calls each whose message never comes."""

    def begin(connection: Connection) -> None:
        for _ in range(16):
            connection.begin(head(SEARCH, 99_999_999))
            attack.counts["calls"] += 1

    _hold(attack, begin, most=64)


def _hold(
    attack: Attack, begin: Callable[[Connection], object], preface: bool = True, most: int = CONNECTIONS
) -> None:
    """Keep connections open, and open those again that the server closes."""
    held: list[Connection] = []
    looked = time.monotonic()
    for _ in attack.ticks(TICK):
        for _ in range(min(OPENED, most - len(held))):
            connection = attack.connect(OPEN if preface else None)
            if connection.closed:
                break
            begin(connection)
            held.append(connection)
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            held = [connection for connection in held if not connection.was_closed()]
            attack.counts["held at once, most"] = max(attack.counts["held at once, most"], len(held))
