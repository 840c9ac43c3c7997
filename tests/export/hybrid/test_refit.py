"""Hybrid bundles of trained towers: what is measured is served, and a refit knows the newest pairs."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from mlflow.entities import Run
from rich.console import Console

from tests.helpers import releases
from tests.helpers.serving.loopback import client_of
from tests.helpers.shop_logs import write_shop
from tests.helpers.stdlib import (
    PLAIN,
    QUICK,
    Made,
    drawn_once,
    experiment_at,
    tracking_at,
    tracking_copy,
    write_sections,
)
from twinspire.export.ann.kinds import hnsw
from twinspire.export.bundle_builder import build_bundle
from twinspire.export.evaluation import per_query
from twinspire.export.release import promote as release
from twinspire.export.release import registry
from twinspire.export.release.gate import ComparedVersion
from twinspire.export.release.paired_metrics import evaluate
from twinspire.protos import bundle
from twinspire.protos.bundle import LEXICAL_FILES
from twinspire.protos.documents import parse_json
from twinspire.protos.hybrid.fusion import clicked
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.config import Experiment
from twinspire.train.config.bundle import HybridConfig, PrecisionConfig
from twinspire.train.data.dataset import Dataset
from twinspire.train.data.training_data import training_data_of
from twinspire.train.training import run as training
from twinspire.train.training.run_metrics import metrics_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
    pytest.mark.exhaustive,
    pytest.mark.timeout(900),  # two runs and two exports
]

ITEMS, CLICKS = 300, 3_000
# Asked in the validation part alone; no three letters of them are in a title.
NEW = ("whiff kick", "mommy gym", "weekly pizza")


@dataclass(frozen=True)
class Shipped:
    """A run, its bundle, what the export measured of the hybrid, and how many indexes it built again."""

    run: Run
    folder: Path
    hybrid: dict[str, Any]
    built: int


@dataclass(frozen=True)
class Shop:
    """Bundles of a log without and with `refit`, the items behind new queries, and the store's address."""

    experiment: Experiment
    dataset: Dataset
    items: list[str]
    plain: Shipped
    refitted: Shipped
    uri: str


@pytest.fixture(scope="module")
def shop(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    items = write_log(folder)
    sections = {
        "data": {"kind": "files", "items": "items.csv", "pairs": "clicks.csv", "time": "at"},
        "split": {"by": "time"},
        "query.text": {"kind": "text", "column": "query"},
        "item.title": {"kind": "text", "column": "title"},
        **{name: PLAIN[name] for name in ("tower", "loss", "training", "index", "gates")},
        **{name: QUICK[name] for name in ("export", "precision")},
        "baselines": {"run": ["bm25"]},
        "hybrid": {"enabled": True},
    }
    experiment, dataset = experiment_at(write_sections(folder / "shop.toml", "shop", sections, {}))
    refit = replace(experiment, training=replace(experiment.training, refit=True))
    quiet = Console(file=io.StringIO())
    shipped = []
    with drawn_once(), tracking_at(f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}") as uri:
        for each in (experiment, refit):
            run, _ = training.fit(each, dataset, quiet)
            with patch.object(hnsw, "tune", wraps=hnsw.tune) as tuned:
                built, _ = build_bundle(each, dataset, run)
            hybrid = parse_json((built / bundle.REPORTS / "hybrid.json").read_bytes())
            shipped.append(Shipped(run, built, hybrid, tuned.call_count))
        plain, refitted = shipped
        yield Shop(refit, dataset, items, plain, refitted, uri)


def write_log(folder: Path) -> list[str]:
    """A shop's log with clicks after new queries within the validation part; returns the items they take."""
    write_shop(folder, ITEMS, CLICKS)
    lines = (folder / "clicks.csv").read_text().splitlines()
    clicked = {line.split(",")[1] for line in lines[1:]}
    unknown = [f"i{n}" for n in range(ITEMS) if f"i{n}" not in clicked][: len(NEW)]
    newest = int(lines[int(CLICKS * 0.87)].split(",")[2])
    for n in range(20):
        lines += [f"{query},{item},{newest + n}" for query, item in zip(NEW, unknown, strict=True)]
    (folder / "clicks.csv").write_text("\n".join(lines) + "\n")
    return unknown


def test_the_weight_is_that_of_towers_that_have_not_learned_from_validation(shop: Shop) -> None:
    plain, refitted = shop.plain.hybrid, shop.refitted.hybrid
    for name in ("weight", "k1", "b", "shipped"):
        assert refitted[name] == plain[name], name
    assert refitted["weights"] == pytest.approx(plain["weights"], abs=0.01)
    hybrid = bundle.read(shop.refitted.folder).hybrid
    assert hybrid is not None
    assert hybrid.weight == plain["weight"]
    assert refitted["towers"] == "before the refit"
    assert "towers" not in plain


def test_items_whose_only_pairs_are_the_newest_are_found(shop: Shop) -> None:
    found = []
    for each in (shop.plain, shop.refitted):
        with client_of(each.folder) as client:
            answers = [client.search(Query(query), 10).hits for query in NEW]
        found.append([shop.items[n] in [hit.id for hit in hits] for n, hits in enumerate(answers)])
    assert sum(found[0]) <= 1
    assert all(found[1])


def test_the_prior_counts_the_clicks_that_the_towers_have_learned(shop: Shop) -> None:
    for each, is_known in ((shop.plain, False), (shop.refitted, True)):
        index = LexicalIndex.of(each.folder, bundle.read(each.folder))
        assert index is not None and index.hybrid.prior_weight > 0
        counts = [len(clicked(index.postings, index.terms(query))[0]) for query in NEW]
        assert counts == [int(is_known)] * len(NEW)


def test_the_figures_are_of_the_served_towers_and_versions_are_compared_by_the_same_test_queries(
    shop: Shop,
) -> None:
    quality = bundle.read(shop.refitted.folder).quality
    assert quality["exact_ndcg_at_10"] == pytest.approx(metrics_of(shop.refitted.run)["ndcg_at_10"], abs=0.01)
    with tracking_at(shop.uri):
        decisions = []
        for each in (shop.plain, shop.refitted):
            version, _ = registry.register(each.folder)
            promoted = release.promote(
                shop.experiment, releases.no_data, force=True, reason="times vary here"
            )
            decisions.append(promoted["decision"])
        assert "have learned from no test pair" in (version.description or "")
    (result,) = (each for each in decisions[1]["gates"] if each["name"] == "quality")
    assert "evaluated again" not in result["text"]  # `no_data` would fail
    assert result["figure"] is not None
    means = decisions[1]["measured"]["quality"]["means"]
    metric = decisions[1]["measured"]["quality"]["metric"]
    for each, side in ((shop.plain, "champion"), (shop.refitted, "challenger")):
        assert means[side][metric] == pytest.approx(bundle.read(each.folder).quality[metric], abs=1e-6)


def test_quality_is_that_of_the_served_answers(made_once: Made, tmp_path: Path) -> None:
    plain = PrecisionConfig(query="fp32", item="fp32")  # no variant is exported and measured
    experiment = replace(made_once.experiment, hybrid=HybridConfig(True), precision=plain)
    # Served by the text that is evaluated, so that both find the same.
    dataset = made_once.dataset
    dataset = replace(dataset, items=dataset.items.with_columns(full_text=pl.col("text")))
    with tracking_copy(made_once, tmp_path):
        folder, _ = build_bundle(experiment, dataset, made_once.run)
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
    again, _ = evaluate(ComparedVersion("1", folder, manifest), data)
    assert again.metrics["mrr_at_10"].mean() == pytest.approx(quality["mrr_at_10"], abs=1e-6)
