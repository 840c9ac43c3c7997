"""What the service shall reach on two cores, and whether a report says that it does."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COMPARED = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Target:
    """A bound of one figure.

    Args:
        key: of the figure in the report.
        text: what it is.
        sign: `>=`, `<=` or `<`.
        bound: of the figure.
    """

    key: str
    text: str
    sign: str
    bound: float

    def is_met(self, report: Mapping[str, Any]) -> bool | None:
        """Whether the figure keeps to it; None where it was not measured."""
        if self.key not in report:
            return None
        value = report[self.key]
        return value is not None and bool(COMPARED[self.sign](value, self.bound))


TARGETS = (
    Target("ratio_to_naive_c16", "throughput against naive, 16 clients", ">=", 1.6),
    Target("ratio_to_naive_c64", "throughput against naive, 64 clients", ">=", 1.6),
    Target("ratio_to_noop_c16", "throughput against no-op, 16 clients", ">=", 0.45),
    Target("ratio_to_noop_c64", "throughput against no-op, 64 clients", ">=", 0.45),
    Target("p50_c1_over_parts", "p50 of 1 client over no-op p50 + in-process single", "<=", 1.2),
    Target("batch32_share", "SearchBatch of 32 against in process", ">=", 0.85),
    Target("batch256_share", "SearchBatch of 256 against in process", ">=", 0.95),
    Target("stream64_share", "SearchStream, 64 in flight, against in-process batches of 32", ">=", 0.6),
    Target("two_workers_ratio", "throughput of two workers against one", ">=", 1.5),
    Target("two_workers_pss_ratio", "memory of two workers against one", "<=", 1.25),
    Target("overload_goodput_share", "goodput under 10 times the load against its peak", ">=", 0.9),
    Target("overload_other_codes", "answers that are neither served nor refused as they should be", "<=", 0),
    Target("overload_p99_ratio", "p99 of those served, against 80 % load", "<", 3.0),
    Target("overload_memory_growth", "memory that the overload adds after its first tenth", "<=", 0.02),
    Target("recovered_p99_ratio", "p99 a second after the overload, against before", "<=", 1.5),
    Target("recovered_errors", "errors from a second after the overload on", "<=", 0),
    Target("soak_memory_growth", "memory that the soak adds after its first tenth", "<", 0.02),
    Target("soak_errors", "errors in the soak", "<=", 0),
)


def missed(report: Mapping[str, Any]) -> list[str]:
    """The keys of the figures that were measured and are not as they shall be."""
    return [each.key for each in TARGETS if each.is_met(report) is False]
