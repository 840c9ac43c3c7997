"""What a load test measures, and for how long."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.load.content import Content
from serving.load.cores import Cores
from serving.load.parts import PARTS, Part

CLIENTS = (1, 16, 64)
OFFERED = (20, 40, 60, 80, 90, 100, 110, 120)  # percent of what the server bears
CONNECTIONS = 64  # of open loops, and of the comparison of workers
NORMAL = 0.8  # of what the server bears: the load that it should carry with ease
STARTING = 4.0  # seconds that a server takes to come up, for the progress bar


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        bundle: that is served.
        parts: of the load test.
        rounds: in which everything is measured again, the other way round every other time.
        seconds: of each figure in a round.
        overload_seconds: of ten times the load that the server bears.
        soak_seconds: of four fifths of it, in the end; 0 for none.
        deadline: seconds of each request of an open loop.
        queries: a file of them; otherwise they are made from the bundle's examples.
        k: items in an answer.
        seed: of everything that is random.
    """

    bundle: Path
    parts: tuple[Part, ...] = PARTS
    rounds: int = 5
    seconds: float = 2.0
    overload_seconds: float = 30.0
    soak_seconds: float = 0.0
    deadline: float = 1.0
    queries: Path | None = None
    k: int = 10
    seed: int = 0

    @property
    def warm_up(self) -> float:
        """Seconds before each figure that are not measured."""
        return min(1.0, self.seconds / 4)


@dataclass(frozen=True)
class Work:
    """What every part of the load test needs.

    Args:
        plan: how much is measured.
        content: requests, and what their answers must hold.
        cores: where.
        say: tells the person who waits what is being done.
        tick: and that so many seconds of it are over.
    """

    plan: Plan
    content: Content
    cores: Cores
    say: Callable[[str], None]
    tick: Callable[[float], None]
