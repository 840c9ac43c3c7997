"""The queries and items that variants are compared with float32 on.

Both are drawn once from the validation split and the catalogue. Search is exact, and a variant of one side's
tower is evaluated with the other side's float32 vectors, so that a loss is due to the variant alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from twinspire.export.encoding.encoding import encode_all
from twinspire.export.encoding.records import rows_of
from twinspire.export.onnx.runtimes import Encode
from twinspire.protos.features import Side, TowerInputs
from twinspire.train.config.bundle import PrecisionConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.exact_search import search
from twinspire.train.evaluation.intervals import Clusters, clusters_of, interval
from twinspire.train.metrics import HEADLINE, per_query

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
BothVectors = Mapping[Side, Vectors]  # of the queries (Q, D) and of the items (N, D)
PerQuery = dict[str, npt.NDArray[np.float64]]

K = 10


@dataclass(frozen=True)
class QualitySample:
    """Queries (Q) and items (N) of a data set.

    Args:
        queries: rows of the queries in the data.
        items: rows of the items, in order.
        relevant: for each query the places in `items` of its relevant items.
        seen: for each query the places in `items` that must not be returned.
        clusters: of the queries.
        seed: of the draws of intervals.
    """

    data: TrainingData
    queries: Rows
    items: Rows
    relevant: list[Rows]
    seen: list[Rows]
    clusters: Clusters
    seed: int

    def encode(self, side: Side, variant: str, inputs: TowerInputs, encode: Encode) -> Vectors:
        """Vectors of the queries (Q, D) or of the items (N, D); progress shows the name of the variant."""
        rows, values = (self.queries, self.data.queries) if side == "query" else (self.items, self.data.items)
        title = f"{'validation queries' if side == 'query' else 'items'}, {variant}"
        return encode_all(encode, inputs, rows_of(values, rows), title)

    def metrics(self, vectors: BothVectors) -> PerQuery:
        """recall@10 and nDCG@10 of each query by exact search: metric -> (Q,)."""
        queries, items = (torch.from_numpy(vectors[side]) for side in ("query", "item"))
        found = per_query(search(queries, items, K, self.seen), self.relevant)
        return {name: found[name] for name in HEADLINE}

    def losses(self, metrics: PerQuery, baseline: PerQuery) -> dict[str, float]:
        """The mean of each metric, and of its difference from a baseline, with a 95 % interval."""
        found: dict[str, float] = {}
        for name in HEADLINE:
            delta = interval(metrics[name], self.clusters, baseline[name], self.seed)
            found |= {
                name: float(metrics[name].mean()),
                f"{name}_delta": delta.mean,
                f"{name}_delta_low": delta.low,
                f"{name}_delta_high": delta.high,
            }
        return found


def draw_sample(data: TrainingData, config: PrecisionConfig) -> QualitySample:
    """Draw queries of the validation split, their relevant items, and other items."""
    random = np.random.default_rng(config.seed)
    queries, relevant = data.parts["validation"].by_query()
    kept = np.sort(random.permutation(len(queries))[: config.queries])
    queries, relevant = queries[kept], [relevant[n] for n in kept]
    items = _draw_items(np.unique(np.concatenate(relevant)), data.item_count, config.items, random)
    places = np.full(data.item_count, -1, np.int64)
    places[items] = np.arange(len(items))
    seen = [found[found >= 0] for found in (places[rows] for rows in data.seen(queries))]
    relevant = [places[rows] for rows in relevant]
    clusters = clusters_of(data, "validation")[kept]
    return QualitySample(data, queries, items, relevant, seen, clusters, config.seed)


def _draw_items(relevant: Rows, count: int, most: int, random: np.random.Generator) -> Rows:
    """All items; if there are more than `most`, the relevant ones and a sample of the others."""
    if count <= most:
        return np.arange(count)
    others = np.setdiff1d(np.arange(count), relevant)
    drawn = random.permutation(others)[: max(0, most - len(relevant))]
    return np.sort(np.concatenate([relevant, drawn]))
