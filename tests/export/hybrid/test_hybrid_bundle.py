"""A hybrid bundle from towers that were trained: what is measured is what is served."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.helpers.stdlib import Made, tracking_copy
from twinspire.export.bundle_builder import build_bundle
from twinspire.export.evaluation import per_query
from twinspire.export.release.gate import ComparedVersion
from twinspire.export.release.paired_metrics import evaluate
from twinspire.protos import bundle
from twinspire.protos.bundle import LEXICAL_FILES
from twinspire.protos.documents import parse_json
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.config import HybridConfig
from twinspire.train.config.bundle import PrecisionConfig
from twinspire.train.data.training_data import training_data_of

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), pytest.mark.exhaustive]


def test_quality_is_that_of_the_served_answers(made_once: Made, tmp_path: Path, console: Console) -> None:
    plain = PrecisionConfig(query="fp32", item="fp32")  # no variant is exported and measured
    experiment = replace(made_once.experiment, hybrid=HybridConfig(True), precision=plain)
    # Served by the text that is evaluated, so that both find the same.
    dataset = made_once.dataset
    dataset = replace(dataset, items=dataset.items.with_columns(full_text=pl.col("text")))
    with tracking_copy(made_once, tmp_path):
        folder, _ = build_bundle(experiment, dataset, made_once.run, console)
    manifest = bundle.read(folder)
    assert manifest.hybrid is not None
    assert set(LEXICAL_FILES.values()) <= set(manifest.files)
    report = parse_json((folder / bundle.REPORTS / "hybrid.json").read_bytes())
    assert report["shipped"] and report["weight"] == manifest.hybrid.weight
    quality = manifest.quality
    for name in ("recall_at_10", "mrr_at_10"):
        assert {name, f"exact_{name}", f"lexical_{name}"} <= quality.keys()
    data = training_data_of(made_once.dataset, experiment.query, experiment.item)
    rows, relevant = data.parts["test"].by_query()
    retriever = Retriever.load(folder)
    texts = [data.queries["text"][row] for row in rows]
    for fusion, prefix in ((FusionMode.DEFAULT, ""), (FusionMode.DENSE, "exact_")):
        answers = retriever.search([*map(Query, texts)], k=10, fusion=fusion)
        hits = [[hit.id for hit in answer.hits] for answer in answers]
        wanted = [{data.item_ids[item] for item in items} for items in relevant]
        shares = [len(own & {*found}) / len(own) for own, found in zip(wanted, hits, strict=True)]
        recall = np.mean(shares)
        assert recall == pytest.approx(quality[f"{prefix}recall_at_10"], abs=0.011)  # ties, by rounding
    measured = per_query.load(folder)
    assert measured is not None
    assert measured.metrics["recall_at_10"].mean() == pytest.approx(quality["recall_at_10"], abs=1e-6)
    # A gate that evaluates the bundle again finds the same, with the weight of the manifest.
    again, _ = evaluate(ComparedVersion("1", folder, manifest), data, console)
    assert again.metrics["mrr_at_10"].mean() == pytest.approx(quality["mrr_at_10"], abs=1e-6)
