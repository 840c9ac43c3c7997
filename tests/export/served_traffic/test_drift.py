"""Drift of a made shop: what is told, what is quiet, and the command with a real registry and a real log."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from rich.console import Console
from scipy.stats import chi2_contingency

from tests.export.served_traffic.logs import BEGUN, write_log
from tests.helpers.drifting import ITEMS, Shopper, items, window, write_shop
from tests.helpers.releases import register, small_experiment
from tests.helpers.stdlib import Made, make_of, shared_made, tracking_copy
from twinspire.export.__main__ import parser
from twinspire.export.bundles import BUNDLES
from twinspire.export.evaluation.drift_reference import popularity_ranks, refreshed
from twinspire.export.release import drift as drift_command
from twinspire.export.release import registry
from twinspire.export.served_traffic.drift import LEAST, compare
from twinspire.protos import bundle
from twinspire.protos.cli import execute
from twinspire.protos.drift import DriftReference
from twinspire.protos.files.served_log import DRIFT
from twinspire.serving.retrieval.retriever import Retriever


@pytest.fixture(scope="module")
def shop(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The run and the bundle of the shop."""

    def make(folder: Path) -> Made:
        return make_of(write_shop(folder), empty_store, folder)

    return shared_made(tmp_path_factory, "drifting", make)


@pytest.fixture(scope="module")
def retriever(shop: Made) -> Retriever:
    return Retriever.load(shop.folder)


@pytest.fixture(scope="module")
def reference(retriever: Retriever, shop: Made) -> DriftReference:
    found = DriftReference.read(shop.folder, retriever.manifest)
    assert found is not None
    return found


def drifted(
    retriever: Retriever, reference: DriftReference, records: Sequence[Any], earlier: Any = None
) -> set[str]:
    ranks = {f"i{n}": n / ITEMS for n in range(ITEMS)} if earlier else ranks_of(retriever)
    features, _, why = compare(reference, retriever.manifest.schema, records, ranks, earlier)
    assert not why
    return {each["name"] for each in features if each["drifted"]}


def ranks_of(retriever: Retriever) -> dict[str, float]:
    """Item -> its rank by popularity, as the command reads it."""
    folder = BUNDLES / retriever.manifest.bundle_version[:12]
    table = json.loads((folder / bundle.ITEMS).read_text())
    return dict(zip(table["ids"], popularity_ranks(table["popularity"]).tolist(), strict=True))


@pytest.mark.parametrize(
    ("shopper", "told", "others"),
    [
        (Shopper(1), set(), set()),
        (Shopper(2, language="xq"), {"text.unknown_words", "vectors", "answer.score"}, {"budget", "device"}),
        (Shopper(3, others=0.15), {"device"}, {"budget", "text.length", "answer.score"}),
        (Shopper(4, budget=1.3), {"budget"}, {"device", "text.length", "answer.score"}),
        (Shopper(5, tail=0.0), {"answer.popularity", "vectors"}, {"budget", "device"}),
        (Shopper(6, devices=(0.3, 0.6, 0.1)), {"device"}, {"budget", "text.length", "answer.score"}),
    ],
    ids=["quiet", "language", "new category", "prices", "mix of subjects", "mix of a category"],
)
def test_injected_drift_is_told_and_nothing_else(
    retriever: Retriever, reference: DriftReference, shopper: Shopper, told: set[str], others: set[str]
) -> None:
    found = drifted(retriever, reference, window(retriever, shopper))
    assert told <= found
    assert not found & others
    assert bool(told) == bool(found)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)  # 50,000 searches
def test_at_most_five_of_a_hundred_quiet_windows_raise_an_alarm(
    retriever: Retriever, reference: DriftReference
) -> None:
    windows = (window(retriever, Shopper(1000 + seed)) for seed in range(100))
    alarms = [each for each in (drifted(retriever, reference, records) for records in windows) if each]
    assert len(alarms) <= 5


def test_another_window_may_be_the_reference(retriever: Retriever, reference: DriftReference) -> None:
    """As where the split gives validation other queries than users send."""
    foreign = window(retriever, Shopper(7, language="xq"))
    assert not drifted(retriever, reference, window(retriever, Shopper(8, language="xq")), foreign)
    assert "text.unknown_words" in drifted(retriever, reference, window(retriever, Shopper(9)), foreign)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, set()),
        ({"prices": 1.5}, {"catalogue.price"}),
        ({"shelf": "a new shelf"}, {"catalogue.shelf"}),
    ],
)
def test_a_refreshed_catalogue_is_compared_with_that_of_training(
    retriever: Retriever, reference: DriftReference, changed: dict[str, Any], told: set[str]
) -> None:
    rows = items(changed.get("prices", 1.0))[: ITEMS // 2]
    fresh = {name: [row[name] for row in rows] for name in ("title", "shelf", "price")}
    if "shelf" in changed:
        fresh["shelf"] = [changed["shelf"]] * len(rows)
    origin = np.concatenate([np.full(ITEMS // 2, -1), np.arange(ITEMS // 2, ITEMS)])
    made = refreshed(reference, retriever.manifest.schema, ITEMS, origin, fresh)
    assert made.rows.tolist() == list(range(ITEMS))
    assert drifted(retriever, made, window(retriever, Shopper(1))) == told
    again = refreshed(made, retriever.manifest.schema, ITEMS, np.arange(ITEMS)[::-1], {n: [] for n in fresh})
    assert np.array_equal(again.served, made.served[::-1], equal_nan=True)
    assert np.array_equal(again.trained, reference.trained)


def test_a_user_counts_once_and_a_window_may_be_too_small(
    retriever: Retriever, reference: DriftReference
) -> None:
    records = window(retriever, Shopper(2, language="xq"))
    one = [{**each, "user": "u"} for each in records]
    features, queries, why = compare(reference, retriever.manifest.schema, one, {})
    assert (queries, why) == (1, f"the window has 1 queries, expected {LEAST} or more")
    assert {each["name"].partition(".")[0] for each in features} == {"catalogue"}
    short = replace(reference, queries=reference.queries[:9])
    assert compare(short, retriever.manifest.schema, records, {})[2].startswith("the reference has 9 queries")


def test_a_fall_below_all_that_the_reference_has_is_told(
    retriever: Retriever, reference: DriftReference
) -> None:
    """Lengths were 20 everywhere, and prices from 30 on."""
    trained, served = np.full((2, *reference.trained.shape), 20, np.float32)
    trained[:, 2] = np.maximum(30, np.arange(len(trained)))
    served[:, 0], served[:, 2] = 10, trained[:, 2] - 1
    made = replace(reference, trained=trained, served=served)
    length, _, price = compare(made, retriever.manifest.schema, [], {})[0]
    assert length["drifted"]
    assert length["labels"] == ["absent", "below 20", "to 20", "above 20"]
    assert price["labels"][1] == f"to {np.quantile(trained[:, 2], 0.1):.4g}"
    assert price["psi"] < 0.1


@pytest.mark.parametrize("count", [LEAST - 1, LEAST])
def test_few_answers_are_not_compared(retriever: Retriever, reference: DriftReference, count: int) -> None:
    records = [
        {**each, "item_ids": [], "scores": [], "comparable": n < count}
        for n, each in enumerate(window(retriever, Shopper(1)))
    ]
    assert ("answer.kind" in drifted(retriever, reference, records)) == (count == LEAST)
    short = replace(reference, answers=reference.answers[: LEAST - 1])
    assert "answer.kind" not in drifted(retriever, short, records)


def test_categories_that_are_rare_in_the_smaller_sample_count_as_one(
    retriever: Retriever, reference: DriftReference
) -> None:
    """Of 60 items beside 6,000, fewer than five of each of three shelves are to be expected."""
    shelf = np.repeat([0, 1, 2, 3, 0, 1, 2], [5900, 10, 40, 50, 50, 8, 2])
    sides = np.full((6060, reference.trained.shape[1]), 20, np.float32)
    sides[:, 1] = shelf
    found = compare(
        replace(reference, trained=sides[:6000], served=sides[6000:]), retriever.manifest.schema, [], {}
    )[0]
    table = [[5900, 100], [50, 10]]
    assert found[1]["p"] == pytest.approx(chi2_contingency(table).pvalue)


def test_answers_with_filters_and_explored_ones_are_not_compared(
    retriever: Retriever, reference: DriftReference
) -> None:
    records = [{**each, "item_ids": [], "scores": []} for each in window(retriever, Shopper(1))]
    assert "answer.kind" in drifted(retriever, reference, records)
    others = [{**each, "comparable": False} for each in records]
    assert not drifted(retriever, reference, others)


@pytest.fixture(autouse=True)
def fetched_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles are not downloaded by a process of its own, which takes seconds to start."""

    def fetch(name: str, number: str) -> tuple[Path, bundle.Manifest]:
        version = registry.by_version(name, number).tags["bundle_version"]
        places = (each / version[:12] for each in (BUNDLES, tmp_path / "made"))
        folder = next(each for each in places if each.exists())
        return folder, bundle.read(folder)

    monkeypatch.setattr(drift_command, "fetch", fetch)


@pytest.fixture
def registered(shop: Made, tmp_path: Path) -> Iterator[Path]:
    """The shop's bundle as the champion; gives the path of the TOML."""
    with tracking_copy(shop, tmp_path):
        version, _ = registry.register(shop.folder)
        mlflow.MlflowClient().set_registered_model_alias(version.name, "champion", str(version.version))
        yield shop.config


def run(config: Path, log: Path, *options: str) -> int:
    """Run the command as the command line does; returns its exit code."""
    arguments = ["drift", "--config", str(config), "--served-log", str(log), *options, "--json"]
    return execute(parser(), arguments, console=lambda: Console(file=io.StringIO()))


def test_the_command_writes_its_document_and_a_page_and_its_exit_code_says_drift(
    registered: Path, retriever: Retriever, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    quiet = [
        {**each, "time": each["time"] - BEGUN + now - timedelta(days=9)}
        for each in window(retriever, Shopper(1))
    ]
    loud = [
        {**each, "request_id": f"d{n}", "time": each["time"] - BEGUN + now - timedelta(hours=1)}
        for n, each in enumerate(window(retriever, Shopper(3, others=0.5)))
    ]
    write_log(tmp_path / "log", quiet + loud)
    span = [(now - timedelta(days=days)).isoformat() for days in (10, 8)]
    assert run(registered, tmp_path / "log", "--since", span[0], "--until", span[1]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == f"no drift in {len(document['features'])} features"
    assert document["queries"] == 500
    assert run(registered, tmp_path / "log", "--against", *span) == 1
    against = json.loads(capsys.readouterr().out)
    assert against["features"]["device"]["drifted"] is True
    assert not (tmp_path / "log" / DRIFT).exists()
    assert run(registered, tmp_path / "log") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"].startswith("drift: ")
    assert document["features"]["device"]["drifted"] is True
    written = json.loads((tmp_path / "log" / DRIFT).read_text())
    assert {**written, "run_id": document["run_id"]} == document
    assert "watch" not in json.dumps(written)
    page = mlflow.artifacts.load_text(f"runs:/{document['run_id']}/drift/drift.html")
    assert "data:image/png" in page
    assert ">device</td>" in page
    assert run(registered, tmp_path / "log", "--until", "2026-01-01") == 0
    assert "unknown: the window has 0 queries" in capsys.readouterr().out
    assert json.loads((tmp_path / "log" / DRIFT).read_text()) == written


def test_the_drift_of_a_bundle_without_a_reference_is_unknown(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = small_experiment(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    register(tmp_path / "made", 1)
    mlflow.MlflowClient().set_registered_model_alias(experiment.name, "champion", "1")
    write_log(tmp_path / "log", [{"request_id": "r", "item_ids": []}] * 2)
    assert run(tmp_path / f"{experiment.name}.toml", tmp_path / "log") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"].startswith("unknown: the bundle has no reference")
    assert document["features"] == {}
    assert not (tmp_path / "log" / DRIFT).exists()


def test_a_verdict_says_what_has_drifted_and_what_was_not_compared() -> None:
    found = [{"name": "catalogue.price", "psi": 0.5, "drifted": True}]
    told = "drift: catalogue.price (PSI 0.50)"
    assert drift_command.verdict(found, "") == told
    assert drift_command.verdict(found, "few") == f"{told}; queries were not compared: few"
