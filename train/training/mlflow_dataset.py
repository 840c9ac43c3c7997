"""A data set as MLflow shows it beside a run: name, digest, source, columns and sizes."""

import json
from typing import Any

from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset import Dataset as MlflowDataset
from mlflow.data.polars_dataset import infer_schema
from mlflow.types import Schema

from twinspire.train.data.dataset import Dataset
from twinspire.train.data.source import SPANS

DIGEST_LENGTH = 12  # characters of the fingerprint, as in the name of the data set's folder
NOT_SHOWN = ("item_row", "part", "user_start", *SPANS)  # columns of pairs that splitting has added


class _SplitDataset(MlflowDataset):
    """Training pairs and their sizes, without the rows."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        report = dataset.report
        source = CodeDatasetSource({"kind": report["kind"], "origin": json.dumps(report["origin"])})
        super().__init__(source, report["name"], report["fingerprint"][:DIGEST_LENGTH])

    def _compute_digest(self) -> str:
        return str(self._dataset.report["fingerprint"][:DIGEST_LENGTH])

    @property
    def schema(self) -> Schema:
        """Columns of the pairs."""
        pairs = self._dataset.pairs
        return infer_schema(pairs.select(name for name in pairs.columns if name not in NOT_SHOWN))

    @property
    def profile(self) -> dict[str, Any]:
        """Number of items, of pairs in each part of the split, and of users where there are any."""
        report = self._dataset.report
        counts = {"num_rows": report["pairs"], "items": report["items"]}
        counts |= {name: count for name, count in report["parts"].items() if count}
        return counts | ({"users": report["users"]} if "users" in report else {})

    def to_dict(self) -> dict[str, str]:
        """The fields that MLflow stores, as text."""
        schema = json.dumps({"mlflow_colspec": self.schema.to_dict()})
        return {**super().to_dict(), "schema": schema, "profile": json.dumps(self.profile)}


def as_mlflow_dataset(dataset: Dataset) -> MlflowDataset:
    """The data set for `mlflow.log_input`; its digest is the start of the data set's fingerprint."""
    return _SplitDataset(dataset)
