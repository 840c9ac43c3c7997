"""The main metrics of a bundle and of the baselines, read from the flat names in a manifest's `quality`.

`recall_at_10` is the bundle's own, `bm25_recall_at_10` a baseline's, `bm25_difference_recall_at_10` the
bundle's less the baseline's; names that begin with `judged_` are of the judged queries.
"""

from collections.abc import Mapping
from typing import Any

DIFFERENCE = "difference_"  # prefix of a metric of the model less that of a baseline
JUDGED = "judged_"  # prefix of the metrics of judged queries
EXACT = "exact"  # exact search of the towers alone, beside a hybrid
WARNINGS = "warnings"  # name of a list of sentences: reasons to doubt the run that trained the towers
SHOWN = ("recall_at_10", "mrr_at_10", "ndcg_at_10")


def figures(quality: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics `SHOWN` as fields of the message `Figure`: of the bundle first, then of each baseline.

    Args:
        quality: of a manifest.
    """
    systems = dict.fromkeys(["", EXACT])
    for name in quality:
        system, _, metric = name.partition(f"_{DIFFERENCE}")
        if metric in SHOWN and not system.startswith(JUDGED):
            systems[system] = None
    found = []
    for metric in SHOWN:
        for system in systems:
            name = f"{system}_{metric}" if system else metric
            if isinstance(value := quality.get(name), int | float):
                low, high = quality.get(f"{name}_low"), quality.get(f"{name}_high")
                found.append({"metric": metric, "system": system, "value": value, "low": low, "high": high})
    return found
