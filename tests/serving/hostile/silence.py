"""The attackers that send nothing, or half of something: connections and calls that stay open."""

import time
from collections.abc import Callable

from serving.load import frames
from tests.serving.fuzzed_messages import SEARCH
from tests.serving.hostile.lines import OPEN, Attack, Line
from tests.serving.raw import head

CONNECTIONS = 1024  # of each attacker
OPENED = 20  # in one tick
TICK = 0.05  # seconds; so 400 connections a second
LOOK = 1.0  # seconds between two looks at which connections the server has closed


def idle_connections(attack: Attack) -> None:
    """1,024 TCP connections that send nothing."""
    _hold(attack, lambda line: None, preface=False)


def half_frames(attack: Attack) -> None:
    """1,024 connections that stop in the middle of a HEADERS frame."""
    block = head(SEARCH, 10_000)
    whole = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    _hold(attack, lambda line: line.send(whole[: len(whole) // 2]))


def prefaces(attack: Attack) -> None:
    """1,024 connections that send the preface and SETTINGS, and then nothing."""
    _hold(attack, lambda line: None)


def silent_calls(attack: Attack) -> None:
    """64 connections with 16 calls each whose message never comes."""

    def begin(line: Line) -> None:
        for _ in range(16):
            line.begin(head(SEARCH, 99_999_999))
            attack.counts["calls"] += 1

    _hold(attack, begin, connections=64)


def _hold(
    attack: Attack, begin: Callable[[Line], object], preface: bool = True, connections: int = CONNECTIONS
) -> None:
    """Keep connections open, and open those again that the server closes."""
    held: list[Line] = []
    looked = time.monotonic()
    for _ in attack.ticks(TICK):
        for _ in range(min(OPENED, connections - len(held))):
            line = attack.line(OPEN if preface else None)
            if line.closed:
                break
            begin(line)
            held.append(line)
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            held = [line for line in held if not line.was_closed()]
            attack.counts["held at once, most"] = max(attack.counts["held at once, most"], len(held))
