"""`[export]`: the export of the towers."""

from dataclasses import dataclass

from twinspire.train.config.checks import above_zero, at_least


@dataclass(frozen=True)
class ExportConfig:
    """The export of the towers to ONNX.

    Args:
        parity_tolerance: largest difference between torch and ONNX Runtime in any coordinate of a vector.
        threads: intra-op threads of ONNX Runtime and torch where the latency is measured; 0 takes all cores.
        iterations: most timed calls of a tower, in ONNX Runtime and in torch, at each batch size; fewer once
            the intervals of the medians are narrow, or after 10 s for the tower.
    """

    parity_tolerance: float = 1e-5
    threads: int = 1
    iterations: int = 300

    def __post_init__(self) -> None:
        above_zero(self, "parity_tolerance")
        at_least(0, self, "threads")
        at_least(1, self, "iterations")
