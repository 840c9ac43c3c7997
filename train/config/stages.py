"""`[training]`, `[export]` and `[gates]`: how a stage goes about its work."""

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
class GatesConfig:
    """What a challenger has to hold against the champion; no run and no bundle follows from it.

    Args:
        parity_tolerance: of torch and ONNX Runtime in any coordinate; the bundle's own if not given.
        recall_target: the index's recall@k against exact search; that of `[index]` if not given.
        recall_k: at which it is measured; that of `[index]` if not given.
        quality_metric: that champion and challenger are compared by; `selection` is that of `[training]`,
            or nDCG@10 where that is no metric of a single query.
        quality_margin: the challenger may be worse than the champion by this much, at 95 %.
        query_tower_p99_ratio: the query tower's p99 latency may be this multiple of the champion's.
        retriever_p99_ratio: so may that of encoding and searching together.
        threads: of the query tower while latency is measured; 0 takes all cores.
        iterations: timed calls of each bundle's query tower, and as many of its retriever.
        max_size_mib: of all files of a bundle together.
        max_size_ratio: a bundle may be this multiple of the champion's size.
        max_load_seconds: until a bundle is verified, loaded and warm.
        min_shadow_queries: live queries that must have been asked of the challenger, too.
        seed: of the bootstraps.
    """

    parity_tolerance: float | None = None
    recall_target: float | None = None
    recall_k: int | None = None
    quality_metric: Literal[
        "selection",
        "recall_at_1",
        "recall_at_10",
        "recall_at_20",
        "recall_at_50",
        "recall_at_100",
        "hr_at_10",
        "hr_at_50",
        "mrr_at_10",
        "ndcg_at_10",
    ] = "selection"
    quality_margin: float = 0.01
    query_tower_p99_ratio: float = 1.25
    retriever_p99_ratio: float = 1.25
    threads: int = 1
    iterations: int = 6000
    max_size_mib: float = 4096.0
    max_size_ratio: float = 2.0
    max_load_seconds: float = 60.0
    min_shadow_queries: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.parity_tolerance is not None:
            above_zero(self, "parity_tolerance")
        if self.recall_target is not None and not 0 < self.recall_target <= 1:
            raise ValueError(f"recall_target: expected above 0 and at most 1, got {self.recall_target}")
        if self.recall_k is not None:
            at_least(1, self, "recall_k")
        if not 0 <= self.quality_margin < 1:
            raise ValueError(f"quality_margin: expected at least 0 and below 1, got {self.quality_margin}")
        above_zero(self, "query_tower_p99_ratio", "retriever_p99_ratio")
        above_zero(self, "max_size_mib", "max_size_ratio", "max_load_seconds")
        at_least(0, self, "threads", "min_shadow_queries", "seed")
        at_least(100, self, "iterations")
