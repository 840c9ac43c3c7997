"""The parts of a load test."""

from typing import Literal

Part = Literal["closed", "batch", "open", "overload", "workers"]
PARTS: tuple[Part, ...] = ("closed", "batch", "open", "overload", "workers")
