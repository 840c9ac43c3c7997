"""Gate `quality`: not worse than the champion by more than the margin, query by query.

Both bundles bring the metrics of each test query. Where those are of the same queries of the same split, they
are compared at once; else both bundles are evaluated anew on the challenger's data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from export import index, per_query, quality
from export.backends import onnx_encoder
from export.catalogue import encode_all
from export.gates.decision import Gate, Side
from export.per_query import PerQuery
from protos import bundle
from protos.errors import DataError, TwinspireError
from protos.vectors import rounded_vectors
from train.config import Experiment
from train.figures import WITH_INTERVAL
from train.metrics import interval
from train.plots import spelt
from train.problem import Problem

Problems = Callable[[], Problem]


@dataclass(frozen=True)
class Evaluated:
    """The metrics of the same queries by one or both bundles.

    Args:
        challenger, champion: theirs.
        anew: why they were evaluated anew; empty where the bundles brought them.
    """

    challenger: PerQuery
    champion: PerQuery | None
    anew: str


def metric_of(experiment: Experiment) -> str:
    """The metric that decides."""
    chosen = experiment.gates.quality_metric
    if chosen != "selection":
        return chosen
    selection = experiment.training.selection
    return "ndcg_at_10" if selection == "auc" else selection


def compared(
    challenger: Side,
    champion: Side | None,
    experiment: Experiment,
    problem: Problems,
    fit: bool,
    console: Console,
) -> tuple[Gate, dict[str, Any]] | None:
    """The gate, and what was measured for it; None where it cannot be told.

    Args:
        problem: gives the challenger's data.
        fit: whether the towers can be run at all.
    """
    try:
        found = stored(challenger, champion)
        if isinstance(found, str):
            if not fit:
                return None
            threads = experiment.index.threads
            found = evaluated(found, challenger, champion, problem(), threads, console)
    except TwinspireError as error:
        return unevaluated(experiment, str(error)), {"error": str(error)}
    except Exception as error:  # ONNX Runtime's errors share no other base
        text = f"cannot be evaluated anew: {error}"
        return unevaluated(experiment, text), {"error": text}
    return judge(found, experiment)


def stored(challenger: Side, champion: Side | None) -> Evaluated | str:
    """What the bundles bring, or why that cannot be compared.

    Raises:
        BundleDamaged: a file of theirs is not what it should be.
    """
    own = per_query.load(challenger.folder)
    if own is None:
        return "the challenger brings no metrics of single queries"
    if champion is None:
        return Evaluated(own, None, "")
    other = per_query.load(champion.folder)
    if other is None:
        return "the champion brings no metrics of single queries"
    if challenger.manifest.split_hash != champion.manifest.split_hash:
        return "the splits differ"
    if not np.array_equal(own.queries, other.queries):  # hashes of texts, not vectors
        return "the towers do not read the same of each query"
    return Evaluated(own, other, "")


def evaluated(
    why: str, challenger: Side, champion: Side | None, problem: Problem, threads: int, console: Console
) -> Evaluated:
    """Both bundles evaluated anew on the challenger's data, each with an index built like its own.

    Args:
        why: that is needed.
        threads: of the builds; 0 takes all cores.

    Raises:
        TwinspireError: a bundle cannot be evaluated on these data.
    """
    own = _evaluate(challenger, problem, threads, console)
    other = None if champion is None else _evaluate(champion, problem, threads, console)
    return Evaluated(own, other, why)


def judge(found: Evaluated, experiment: Experiment) -> tuple[Gate, dict[str, Any]]:
    """The gate, and what was measured for it."""
    metric, bound = metric_of(experiment), -experiment.gates.quality_margin
    sides = {"challenger": found.challenger, "champion": found.champion}
    means = {name: _means(each) for name, each in sides.items() if each is not None}
    measured: dict[str, Any] = {
        "metric": metric,
        "margin": experiment.gates.quality_margin,
        "queries": len(found.challenger.queries),
        "evaluated_anew": found.anew,
        "means": means,
        "intervals": {
            name: _intervals(each, experiment.gates.seed) for name, each in sides.items() if each is not None
        },
    }
    own = means["challenger"].get(metric)
    if own is None:
        text = f"the challenger's {spelt(metric)} is not a number for every query"
        return Gate("quality", None, bound, False, text), measured
    told = f"{spelt(metric)} {own:.4f}"
    if found.champion is None:
        return Gate("quality", own, bound, True, f"{told}; there is no champion to compare it with"), measured
    differences = _differences(found.challenger, found.champion, metric, experiment.gates.seed)
    if metric not in differences:
        text = f"{told}; the champion has no {spelt(metric)} to compare it with"
        return Gate("quality", None, bound, False, text), measured
    low = differences[metric]["low"]
    text = (
        f"{told} against {means['champion'][metric]:.4f}: {differences[metric]['mean']:+.4f} "
        f"({low:+.4f} to {differences[metric]['high']:+.4f} at 95 %) over {measured['queries']:,} queries"
    )
    text += f"; both evaluated anew, because {found.anew}" if found.anew else ""
    return Gate("quality", low, bound, low >= bound, text), {**measured, "differences": differences}


def unevaluated(experiment: Experiment, why: str) -> Gate:
    """The gate where the bundles cannot be compared."""
    return Gate("quality", None, -experiment.gates.quality_margin, False, why)


def _means(found: PerQuery) -> dict[str, float]:
    """Of the metrics that are a number for every query."""
    finite = {name: values for name, values in found.metrics.items() if np.isfinite(values).all()}
    return {name: float(values.mean(dtype=np.float64)) for name, values in finite.items() if len(values)}


def _intervals(found: PerQuery, seed: int) -> dict[str, float]:
    """95 % intervals of the main means, named as everywhere."""
    known = _means(found)
    ends: dict[str, float] = {}
    for name in WITH_INTERVAL:
        if name in known:
            values = found.metrics[name].astype(np.float64)
            ends[f"{name}_low"], ends[f"{name}_high"] = interval(values, seed=seed)
    return ends


def _differences(own: PerQuery, other: PerQuery, metric: str, seed: int) -> dict[str, dict[str, float]]:
    """Mean and 95 % interval of the paired difference, by a bootstrap over queries, of the main metrics."""
    found = {}
    for name in dict.fromkeys((metric, *WITH_INTERVAL)):
        if name in _means(own) and name in _means(other):
            each = own.metrics[name].astype(np.float64) - other.metrics[name]
            low, high = interval(each, seed=seed)
            found[name] = {"mean": float(each.mean()), "low": low, "high": high}
    return found


def _evaluate(side: Side, problem: Problem, threads: int, console: Console) -> PerQuery:
    manifest = side.manifest
    _check_features(side, problem)
    query, item = manifest.schema.side("query"), manifest.schema.side("item")
    encoded = encode_all(
        onnx_encoder(side.folder / bundle.ITEM_TOWER, threads=0),
        item,
        problem.items,
        console,
        f"items by version {side.version}",
    )
    items = rounded_vectors(encoded, manifest.precision.vectors, manifest.score.kind != "cosine")
    graph = index.build_as(manifest.index, items, manifest.score, threads)
    encode = onnx_encoder(side.folder / bundle.QUERY_TOWER, threads=0)
    model = quality.Searched(encode, query, items, graph, manifest.index)
    return per_query.measure(problem, quality.ranked(problem, model, console))


def _check_features(side: Side, problem: Problem) -> None:
    """The data give every feature that the towers of a bundle read."""
    given: Mapping[str, Mapping[str, Any]] = {"query": problem.queries, "item": problem.items}
    taken = {"query": side.manifest.schema.query, "item": side.manifest.schema.item}
    lacking = [f"{part}.{name}" for part in given for name in taken[part] if name not in given[part]]
    if lacking:
        raise DataError(
            f"version {side.version} cannot be evaluated on the challenger's data: it reads "
            f"{', '.join(lacking)}, which they do not give"
        )
