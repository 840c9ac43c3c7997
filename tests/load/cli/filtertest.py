"""`python -m tests.load filtertest`: searches with filters, by the share of the items that pass.

First the time of a query is compared with that of the same query without a filter, in process and on one
thread. The queries are generated, so that there are many and none is repeated. Filters are used several
times, as those of an application are; the first use of a filter is timed separately. Then the answers to
the bundle's examples are compared with exact search among the items that pass. The test fails if a bucket's
whole interval of recall is too small, an answer has too few hits, or a hit does not pass; times only show
their bounds.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from tests.helpers import query_generator
from tests.load import report as reports
from tests.load.cli.steps import result_or_failure, tested_folder
from tests.load.filter_times import bound_of, measure_times
from tests.load.report import Report, machine_text, progress, table
from twinspire.protos.cli import Result
from twinspire.protos.errors import MissingStage
from twinspire.serving.benchmark.filter_measurement import (
    ANTI_CORRELATED,
    RANDOM,
    SELECTIVITIES,
    buckets,
    measure_quality,
)
from twinspire.serving.retrieval.query import example_query
from twinspire.serving.retrieval.retriever import Retriever

# Smallest recall of a bucket. As in the gate `filtered_recall`, a bucket misses it if the whole 95 % interval
# is below: recall differs by as much from one set of queries to another.
RECALL = 0.98
DEVIATIONS = 1.96  # of a mean, at 95 %
KINDS = (RANDOM, ANTI_CORRELATED)
HEADS = "filters", "pass", "recall", "wrong", "query, us", "first use", "without", "ratio", "bound", "plans"
SPARE = 4  # generated queries for each that is wanted: some may be answered without a search

Key = tuple[float, str]  # selectivity and kind of a bucket


def run(arguments: Namespace) -> Result:
    """Run the filter test.

    Raises:
        DataError: a bucket misses its recall, or an answer is incomplete or wrong; the report has been shown.
        MissingStage: there is no bundle, or it has no filter fields, or none that allow such filters.
    """
    folder = tested_folder(arguments)
    report = measure(folder, arguments.k, arguments.queries, arguments.seed)
    result: Result = report, lambda console: show(console, report)
    return result_or_failure(result, arguments, "; ".join(report["failed"]))


def measure(folder: Path, k: int, queries: int, seed: int) -> dict[str, Any]:
    """The report of a bundle.

    Args:
        folder: of the bundle.
        k: items in an answer.
        queries: of each bucket at most: generated ones for the times, and examples for the recall.
        seed: of all random choices.

    Returns:
        `buckets`, and over all of them: `filter_recall_min`; `filter_p50_ratio_max`, the largest ratio of a
        query with a filter to the same without, at the median; `filter_incomplete` answers, and
        `filter_wrong` hits. `failed` lists the faults of each bucket; `left_out` names the buckets without
        such filters.

    Raises:
        MissingStage: as `run`.
    """
    retriever = Retriever.load(folder)
    manifest = retriever.manifest
    if not manifest.filters:
        raise MissingStage(f"{folder}: has no filter fields; `[filter]` of the experiment names them")
    generated = query_generator.of_bundle(manifest, seed, SPARE * queries)
    examples = [example_query(each) for each in manifest.examples]
    times: dict[Key, dict[str, Any]] = {}
    found: list[dict[str, Any]] = []
    with progress(5.0 * len(KINDS) * len(SELECTIVITIES)) as (say, tick):
        for made in buckets(retriever, retriever.built, generated, seed, queries):
            say(f"times: {_bucket_name(made.selectivity, made.kind)}")
            times[made.selectivity, made.kind] = {
                **measure_times(retriever, made, k),
                "p50_ratio_bound": bound_of(made.selectivity),
            }
            tick()
        for made in buckets(retriever, retriever.built, examples, seed, queries):
            say(f"recall: {_bucket_name(made.selectivity, made.kind)}")
            if (own := times.get((made.selectivity, made.kind))) is None:
                continue  # no generated query has such a filter
            quality = measure_quality(retriever, retriever.built, made, k)
            values = np.array(quality.pop("recall"))
            recalls = {"recall": float(values.mean()), "recall_high": _upper_bound(values)}
            found.append({**quality, "queries": len(values), **recalls, **own})
            tick()
    if not found:
        raise MissingStage(f"{folder}: its filter fields allow no filter of {SELECTIVITIES}")
    return {
        "name": manifest.name,
        "bundle_version": manifest.bundle_version,
        "items": manifest.count,
        "dimension": manifest.dimension,
        "ef_search": manifest.index.ef_search,
        "k": k,
        "queries": queries,
        "seed": seed,
        "machine": machine_text(),
        "recall_bound": RECALL,
        "filter_recall_min": min(each["recall"] for each in found),
        "filter_p50_ratio_max": max(each["p50_ratio"] for each in found),
        "filter_incomplete": sum(each["incomplete"] for each in found),
        "filter_wrong": sum(each["wrong"] for each in found),
        "failed": failures(found, RECALL),
        "left_out": [
            _bucket_name(selectivity, kind)
            for selectivity in SELECTIVITIES
            for kind in KINDS
            if (selectivity, kind) not in {(each["selectivity"], each["kind"]) for each in found}
        ],
        "buckets": found,
    }


def failures(found: Sequence[Mapping[str, Any]], recall: float) -> list[str]:
    """The faults of each bucket in words; empty if the test has passed."""
    texts = []
    for each in found:
        missed = []
        if each["recall_high"] < recall:
            interval = f"95 % interval up to {each['recall_high']:.4f}"
            missed.append(f"recall {each['recall']:.4f}, {interval}, expected {recall:g}")
        if each["incomplete"]:
            missed.append(f"{each['incomplete']} of {each['queries']} answers have too few hits")
        if each["wrong"]:
            missed.append(f"{each['wrong']} hits do not pass the filter")
        if missed:
            texts.append(f"{_bucket_name(each['selectivity'], each['kind'])}: {', '.join(missed)}")
    return texts


def _upper_bound(values: npt.NDArray[np.float64]) -> float:
    """The upper end of the 95 % interval of a mean, by the normal distribution."""
    return min(1.0, float(values.mean() + DEVIATIONS * values.std() / len(values) ** 0.5))


def _bucket_name(selectivity: float, kind: str) -> str:
    return f"{selectivity:.1%} {kind}"


def show(console: Console, report: Report) -> None:
    """Recall, completeness and times of each bucket, and which of them fail."""
    rows = [
        (
            _bucket_name(each["selectivity"], each["kind"]),
            f"{each['passing']:.2%}",
            f"{each['recall']:.4f}",
            str(each["incomplete"] + each["wrong"]),
            *(f"{each['p50_us'][name]:,.0f}" for name in ("filtered", "first_use", "unfiltered")),
            f"{each['p50_ratio']:.2f}",
            f"{each['p50_ratio_bound']:g}",
            ", ".join(f"{plan} {count}" for plan, count in sorted(each["plans"].items())),
        )
        for each in report["buckets"]
    ]
    console.print(table(HEADS, rows))
    left_out = [f"no such filters were found: {', '.join(report['left_out'])}"] if report["left_out"] else []
    about = [f"{report['items']:,} items; {report['machine']}, one thread"]
    reports.show(console, report, (), (), about, left_out)
    for each in report["failed"]:
        console.print(each, style="red", highlight=False, markup=False, soft_wrap=True)
