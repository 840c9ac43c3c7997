"""A data set as MLflow shows it beside a run: name, digest, source, columns and number of pairs."""

import json

from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.polars_dataset import PolarsDataset, from_polars

from twinspire.train.data.dataset import Dataset
from twinspire.train.data.source import SPANS

DIGEST_LENGTH = 12  # characters of the fingerprint, as in the name of the data set's folder
NOT_SHOWN = ("item_row", "part", "user_start", *SPANS)  # columns of pairs that splitting has added


def as_mlflow_dataset(dataset: Dataset) -> PolarsDataset:
    """The data set for `mlflow.log_input`; its digest is the start of the data set's fingerprint."""
    report = dataset.report
    source = CodeDatasetSource({"kind": report["kind"], "origin": json.dumps(report["origin"])})
    pairs, digest = dataset.pairs.drop(NOT_SHOWN, strict=False), report["fingerprint"][:DIGEST_LENGTH]
    return from_polars(pairs, source, name=report["name"], digest=digest)
