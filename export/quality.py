"""Quality as it is served: the test split through the ONNX towers and an HNSW index.

Beside it stand exact search over the same vectors, which tells what the index costs, and BM25 on the same
split, which tells what the model is worth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt
from rich.console import Console

from export.backends import Encode
from export.catalogue import encode_all
from export.index import approximate, exact
from protos.features import TowerInputs
from train.baselines import bm25_metrics
from train.config import Experiment
from train.metrics import CUTOFFS, mean, per_query
from train.problem import Problem

Vectors = npt.NDArray[np.float32]
K = max(CUTOFFS)


@dataclass(frozen=True)
class Asked:
    """The queries of a part: their vectors, and the item rows that are right for each."""

    rows: npt.NDArray[np.int64]
    vectors: Vectors
    relevant: list[npt.NDArray[np.int64]]


def ask(encode: Encode, inputs: TowerInputs, problem: Problem, part: str, console: Console) -> Asked:
    """The distinct queries of a part, encoded."""
    rows, relevant = problem.parts[part].by_query()
    values = {name: [column[row] for row in rows] for name, column in problem.queries.items()}
    return Asked(rows, encode_all(encode, inputs, values, console, f"{part} queries"), relevant)


def evaluate(
    experiment: Experiment,
    problem: Problem,
    asked: Asked,
    items: Vectors,
    index: hnswlib.Index,
    ef_search: int,
) -> dict[str, Any]:
    """Metrics of the served pipeline; `exact_` and `bm25_` come before those of the other two."""
    served = mean(per_query(approximate(index, asked.vectors, K, ef_search), asked.relevant))
    searched = mean(per_query(exact(asked.vectors, items, K), asked.relevant))
    metrics = served | {f"exact_{name}": value for name, value in searched.items()}
    return metrics | bm25_metrics(experiment, problem, "test") | {"queries": len(asked.rows)}


def verdict(metrics: Mapping[str, float]) -> str:
    """Who wins at recall@10, in a sentence."""
    model, baseline = metrics["recall_at_10"], metrics["bm25_recall_at_10"]
    if model >= baseline:
        return f"better than BM25 at recall@10: {model:.3f} against {baseline:.3f}"
    return f"BM25 is better at recall@10: {baseline:.3f} against {model:.3f}"
