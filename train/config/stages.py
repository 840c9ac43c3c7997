"""`[training]`, `[export]` and `[index]`: how a stage goes about its work."""

from dataclasses import dataclass
from typing import Literal

from train.config.checks import above_zero, at_least


@dataclass(frozen=True)
class TrainingConfig:
    """The loop.

    Args:
        epochs: at most this many.
        patience: stop after this many epochs in a row without a better figure on validation.
        selection: the figure that chooses the best epoch; `auc` where the data has labels.
        batch_size: pairs a step.
        learning_rate: of Adam, after a linear warm-up, decaying to zero along a cosine.
        seed: of everything random.
        threads: torch's thread budget; 0 takes all cores.
    """

    epochs: int = 5
    patience: int = 2
    batch_size: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 0
    selection: Literal["recall_at_10", "hr_at_10", "ndcg_at_10", "mrr_at_10", "auc"] = "recall_at_10"

    def __post_init__(self) -> None:
        at_least(0, self, "epochs", "seed", "threads")
        at_least(1, self, "patience")
        at_least(2, self, "batch_size")
        above_zero(self, "learning_rate")


@dataclass(frozen=True)
class ExportConfig:
    """Towers to ONNX.

    Args:
        parity_tolerance: the largest difference of torch and ONNX Runtime in any coordinate.
        threads: intra-op threads of ONNX Runtime and torch in the benchmark.
        iterations: timed calls of each backend at each batch size.
    """

    parity_tolerance: float = 1e-5
    threads: int = 1
    iterations: int = 300

    def __post_init__(self) -> None:
        above_zero(self, "parity_tolerance")
        at_least(0, self, "threads")
        at_least(1, self, "iterations")


@dataclass(frozen=True)
class IndexConfig:
    """HNSW (Malkov and Yashunin 2018).

    Args:
        m: links of a node.
        ef_construction: width of the search while building.
        recall_target: ef_search is the smallest that reaches this recall@k against exact search.
        k: at which recall is measured.
        seed: of the level draw.
        threads: of the build; 1 makes it reproducible byte for byte, 0 takes all cores.
    """

    m: int = 16
    ef_construction: int = 200
    recall_target: float = 0.98
    k: int = 10
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        at_least(2, self, "m")
        at_least(1, self, "ef_construction", "k")
        at_least(0, self, "seed", "threads")
        above_zero(self, "recall_target")
