"""Quality, difference, size and latency of variants, each beside float32.

Quality is measured on queries of the validation split and on items, both drawn once and encoded in float32. A
variant of one side's tower is evaluated with the other side's float32 vectors and by exact search, so that a
loss is due to the variant alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from export.encoding import encode_all
from export.latency.inputs import AS_IS, Values
from export.latency.tower_latency import LatencyCase, latency_summary, time_tower
from export.onnx import parity
from export.onnx.runtimes import Encode, onnx_encoder
from export.quantization.variants import node_count
from protos.bundle import TableVariant
from protos.features import Side, TowerInputs
from protos.system.timing import Effort
from train.config.precision import PrecisionConfig
from train.data.training_data import TrainingData
from train.evaluation.exact_search import search
from train.evaluation.intervals import Clusters, clusters_of, interval
from train.metrics import HEADLINE, per_query

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
PerQuery = dict[str, npt.NDArray[np.float64]]

K = 10
SECONDS = 5.0  # after which MIN_CALLS are enough
MIN_CALLS = 100
RECORDS = 500  # test records for latency
SMALL_CATALOGUE = 500  # items; so few are encoded on one thread sooner than another session is loaded


@dataclass(frozen=True)
class QualitySample:
    """Queries (Q) and items (N) of a data set that variants are evaluated on.

    Args:
        queries: rows of the queries in the data.
        items: rows of the items, in order.
        relevant: for each query the places in `items` of its relevant items.
        seen: for each query the places in `items` that must not be returned.
        vectors: side -> float32 (Q, D) and (N, D), of the towers in float32.
        baseline: metric -> (Q,), with those vectors.
        clusters: of the queries.
    """

    data: TrainingData
    queries: Rows
    items: Rows
    relevant: list[Rows]
    seen: list[Rows]
    vectors: dict[Side, Vectors]
    baseline: PerQuery
    clusters: Clusters

    def encode(
        self, side: Side, encode: Encode, inputs: TowerInputs, console: Console, title: str
    ) -> Vectors:
        """Vectors of the sample's queries or items by an encoder."""
        rows = self.queries if side == "query" else self.items
        return _encoded(self.data, side, rows, encode, inputs, console, title)

    def metrics(self, queries: Vectors, items: Vectors) -> PerQuery:
        """recall@10 and nDCG@10 of each query by exact search: metric -> (Q,).

        Args:
            queries: (Q, D).
            items: (N, D).
        """
        return _metrics(queries, items, self.relevant, self.seen)

    def metrics_of_side(self, side: Side, vectors: Vectors) -> PerQuery:
        """As `metrics`, of one side's vectors with the other side's in float32."""
        both = {**self.vectors, side: vectors}
        return self.metrics(both["query"], both["item"])

    @property
    def is_small(self) -> bool:
        """Whether measuring everything would take far longer than the catalogue is worth."""
        return self.data.item_count <= SMALL_CATALOGUE

    def summary(self) -> dict[str, Any]:
        """For reports: sizes, and the metrics of float32."""
        return {
            "queries": len(self.queries),
            "drawn": str(self.clusters),
            "items": len(self.items),
            "catalogue": self.data.item_count,
            **{f"fp32_{name}": float(self.baseline[name].mean()) for name in HEADLINE},
        }


def draw_sample(
    data: TrainingData,
    towers: Mapping[Side, tuple[TowerInputs, Encode]],
    config: PrecisionConfig,
    console: Console,
) -> QualitySample:
    """Draw queries and items, and encode them in float32.

    Args:
        towers: side -> inputs and encoder of the float32 tower.
    """
    random = np.random.default_rng(config.seed)
    queries, relevant = data.parts["validation"].by_query()
    kept = np.sort(random.permutation(len(queries))[: config.queries])
    clusters = clusters_of(data, "validation")[kept]
    queries, relevant = queries[kept], [relevant[n] for n in kept]
    items = _draw_items(np.unique(np.concatenate(relevant)), data.item_count, config.items, random)
    places = np.full(data.item_count, -1, np.int64)
    places[items] = np.arange(len(items))
    relevant = [places[rows] for rows in relevant]
    seen = [found[found >= 0] for found in (places[rows] for rows in data.seen(queries))]
    rows: dict[Side, Rows] = {"query": queries, "item": items}
    vectors: dict[Side, Vectors] = {}
    for side, (inputs, encode) in towers.items():
        title = "validation queries, fp32" if side == "query" else "items, fp32"
        vectors[side] = _encoded(data, side, rows[side], encode, inputs, console, title)
    baseline = _metrics(vectors["query"], vectors["item"], relevant, seen)
    return QualitySample(data, queries, items, relevant, seen, vectors, baseline, clusters)


@dataclass(frozen=True)
class MeasuredVariant:
    """The measurements of one variant.

    Args:
        figures: for the report.
        vectors: of the sample's queries or items.
    """

    figures: dict[str, Any]
    vectors: Vectors


def measure(
    side: Side,
    inputs: TowerInputs,
    files: Mapping[TableVariant, Path],
    sample: QualitySample,
    batch: int,
    threads: int,
    iterations: int,
    seed: int,
    console: Console,
) -> dict[TableVariant, MeasuredVariant]:
    """Measure the variants of one tower, float32 included.

    Args:
        batch: records of a timed call.
        threads: of ONNX Runtime for latency; 0 takes all cores. Vectors are encoded on all cores.
        iterations: timed calls of each variant.
        seed: of the draws.

    Returns:
        name -> figures: `size_bytes`, `size_share`, `nodes`, those of `differences` and `losses`, and
        `latency`, the percentiles.
    """
    with console.status(f"latency of the {side} tower's variants"):
        encoders = {name: onnx_encoder(path, threads) for name, path in files.items()}
        values: Values = dict(sample.data.sample(side, "test", RECORDS, seed=0))
        effort = Effort(iterations, min(MIN_CALLS, iterations), SECONDS)
        case = LatencyCase(side, 1, batch, AS_IS)  # the encoders have their own number of threads
        contenders = {str(name): encode for name, encode in encoders.items()}
        taken = time_tower(case, contenders, inputs, values, effort)
    plain = files["fp32"].stat().st_size
    found = {}
    for name, path in files.items():
        if name == "fp32":
            vectors, metrics = sample.vectors[side], sample.baseline
        else:
            title = f"{'validation queries' if side == 'query' else 'items'}, {name}"
            encode = encoders[name] if sample.is_small else onnx_encoder(path, threads=0)
            vectors = sample.encode(side, encode, inputs, console, title)
            metrics = sample.metrics_of_side(side, vectors)
        size = path.stat().st_size
        figures: dict[str, Any] = {"size_bytes": size, "size_share": size / plain, "nodes": node_count(path)}
        figures |= differences(vectors, sample.vectors[side]) | losses(
            metrics, sample.baseline, sample.clusters, seed
        )
        figures["latency"] = latency_summary(taken[name], batch, seed)
        found[name] = MeasuredVariant(figures, vectors)
    return found


def differences(vectors: Vectors, plain: Vectors) -> dict[str, float]:
    """How far vectors (N, D) are from those in float32: `max_abs_diff` and `mean_cosine`.

    The first is relative to a vector's length where that is above 1. Zero vectors have no cosine and are left
    out.
    """
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(plain, axis=1)
    nonzero = lengths > 0
    products = np.einsum("nd,nd->n", vectors[nonzero], plain[nonzero])
    return {
        "max_abs_diff": parity.difference(vectors, plain),
        "mean_cosine": float((products / lengths[nonzero]).mean()) if nonzero.any() else 1.0,
    }


def losses(metrics: PerQuery, baseline: PerQuery, clusters: Clusters, seed: int) -> dict[str, float]:
    """Each metric and its difference from float32 on the same queries, with a 95 % interval."""
    found: dict[str, float] = {}
    for name in HEADLINE:
        delta = interval(metrics[name], clusters, baseline[name], seed)
        found |= {
            name: float(metrics[name].mean()),
            f"{name}_delta": delta.mean,
            f"{name}_delta_low": delta.low,
            f"{name}_delta_high": delta.high,
        }
    return found


def _draw_items(relevant: Rows, count: int, most: int, random: np.random.Generator) -> Rows:
    """All items; if there are more than `most`, the relevant ones and a sample of the others."""
    if count <= most:
        return np.arange(count)
    others = np.setdiff1d(np.arange(count), relevant)
    drawn = random.permutation(others)[: max(0, most - len(relevant))]
    return np.sort(np.concatenate([relevant, drawn]))


def _encoded(
    data: TrainingData,
    side: Side,
    rows: Rows,
    encode: Encode,
    inputs: TowerInputs,
    console: Console,
    title: str,
) -> Vectors:
    values = data.queries if side == "query" else data.items
    count = data.query_count if side == "query" else data.item_count
    if len(rows) < count:
        values = {name: [column[row] for row in rows] for name, column in values.items()}
    return encode_all(encode, inputs, values, console, title)


def _metrics(queries: Vectors, items: Vectors, relevant: Sequence[Rows], seen: Sequence[Rows]) -> PerQuery:
    ranked = search(torch.from_numpy(queries), torch.from_numpy(items), K, seen)
    found = per_query(ranked, relevant)
    return {name: found[name] for name in HEADLINE}
