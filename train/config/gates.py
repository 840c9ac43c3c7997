"""`[gates]`: the bounds that a challenger must keep to be promoted."""

from dataclasses import dataclass
from typing import Literal

from twinspire.train.config.checks import above_zero, at_least, below_one
from twinspire.train.metrics import GateMetric


@dataclass(frozen=True)
class GatesConfig:
    """The keys of the gates, which `export/release/gates/` judges, one module for each measurement.

    Args:
        threads: of the query tower while recall and latency are measured; 0 takes all cores.
        seed: of the draws.
        parity_tolerance: the largest absolute difference between torch and ONNX Runtime in any coordinate; by
            default the bundle's own.
        recall_target: the smallest recall@k against exact search; by default that of `[index]`.
        filtered_recall_target: the smallest recall@k of searches with filters, in each bucket of selectivity;
            by default the `recall_target` of `[index]`, not that of `[gates]`.
        recall_k: the k of recall@k; by default that of `[index]`.
        quality_metric: that champion and challenger are compared by; `selection` is the metric of that name
            in `[training]`. If that is AUC or log loss, it is the log loss of the labelled test pairs. Where
            bundles hold none, both are evaluated again. Where scores are no probabilities, or the pairs do
            not have both labels, nDCG@10 decides.
        quality_margin: the challenger may be worse than the champion by this much, at 95 %, and than the best
            of the last ten champions by the means. Of a metric of rankings, 0 to 1.
        log_loss_margin: the same where log loss decides, in nats a pair. On `movielens-clicks` two seeds
            differ by less than .001, and an interval over 153 users reaches .002 to either side; the default
            leaves as much again for smaller test parts.
        worse_than_baseline: what becomes of a challenger that the best plain baseline, such as BM25, beats on
            its test part beyond chance: `warn` promotes it with a warning, `refuse` does not.
        query_tower_p99_ratio: the query tower's p99 latency may be this multiple of the champion's.
        retriever_p99_ratio: the same for encoding and searching together.
        iterations: timed calls of each bundle's query tower, and as many of its retriever.
        max_size_mib: MiB of all files of a bundle together.
        max_size_ratio: the bundle may have this multiple of the champion's size.
        max_load_seconds: until a bundle is verified, loaded and warm.
        interleaving_error: probability with which a challenger is taken that users do not prefer, where
            `promote --served-log` has interleaved answers; 0 to 1.
    """

    threads: int = 1
    seed: int = 0
    parity_tolerance: float | None = None
    recall_target: float | None = None
    filtered_recall_target: float | None = None
    recall_k: int | None = None
    quality_metric: GateMetric = "selection"
    quality_margin: float = 0.01
    log_loss_margin: float = 0.005
    worse_than_baseline: Literal["warn", "refuse"] = "warn"
    query_tower_p99_ratio: float = 1.25
    retriever_p99_ratio: float = 1.25
    iterations: int = 6000
    max_size_mib: float = 4096.0
    max_size_ratio: float = 2.0
    max_load_seconds: float = 60.0
    interleaving_error: float = 0.05

    def __post_init__(self) -> None:
        at_least(0, self, "threads", "seed")
        if not 0 < self.interleaving_error < 1:
            raise ValueError(f"interleaving_error: expected between 0 and 1, got {self.interleaving_error}")
        at_least(100, self, "iterations")
        above_zero(self, "query_tower_p99_ratio", "retriever_p99_ratio")
        above_zero(self, "max_size_mib", "max_size_ratio", "max_load_seconds")
        if self.parity_tolerance is not None:
            above_zero(self, "parity_tolerance")
        for name in ("recall_target", "filtered_recall_target"):
            target = getattr(self, name)
            if target is not None and not 0 < target <= 1:
                raise ValueError(f"{name}: expected above 0 and at most 1, got {target}")
        if self.recall_k is not None:
            at_least(1, self, "recall_k")
        below_one(self, "quality_margin", "log_loss_margin")
