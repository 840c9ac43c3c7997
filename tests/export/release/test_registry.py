"""Bundles in a real registry: registered once, with a card, and fetched whole or not at all."""

import dataclasses
import math
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.helpers import releases
from tests.helpers.releases import DATASET, QUALITY, answered_elsewhere, figures_beside, small_bundle
from tests.helpers.stdlib import Made, tracking_copy
from tests.helpers.tiny import watched_bundle
from twinspire.export.release import model_card, registry
from twinspire.export.release.registry import CHAMPION
from twinspire.protos import bundle
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import BundleDamaged, MissingStage, TwinspireError
from twinspire.train.paths import ROOT
from twinspire.train.training.tracking import find_run, tracked_run


@pytest.fixture
def own(made_once: Made, tmp_path: Path) -> Any:
    """`made_once` in a store of this test's own, so that it may register."""
    with tracking_copy(made_once, tmp_path) as uri:
        yield dataclasses.replace(made_once, uri=uri)


@pytest.mark.exhaustive
def test_a_registered_version_answers_in_any_process(own: Made, tmp_path: Path) -> None:
    version, reused = registry.register(own.folder)
    assert not reused
    assert registry.register(own.folder) == (version, True)
    challenger = registry.by_alias("stdlib", registry.CHALLENGER)
    assert challenger is not None
    assert challenger.version == version.version
    assert registry.by_alias("stdlib", CHAMPION) is None
    hits, printed = answered_elsewhere("models:/stdlib@challenger", "parse command line arguments", tmp_path)
    assert len(hits) == 3
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    assert str(ROOT) not in printed


def test_a_champion_that_is_registered_again_is_no_challenger(own: Made) -> None:
    version, _ = registry.register(own.folder)
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("stdlib", CHAMPION, version.version)
    registry.retire_challenger("stdlib", "99")
    assert registry.by_alias("stdlib", registry.CHALLENGER) is not None  # it is another version's alias
    registry.retire_challenger("stdlib", str(version.version))
    again, reused = registry.register(own.folder)
    assert (again.version, reused) == (version.version, True)
    assert registry.by_alias("stdlib", registry.CHALLENGER) is None


def test_a_version_carries_the_card_of_what_was_exported(own: Made) -> None:
    version, _ = registry.register(own.folder)
    manifest = bundle.read(own.folder)
    assert version.description == model_card.card(manifest)
    assert version.description is not None
    assert len(version.description) < model_card.LIMIT
    for part in (
        "\nnDCG@10 ",
        "BM25",
        manifest.quality["verdict"],
        "By exact search",
        own.run.info.run_id,
    ):
        assert part in version.description
    model = mlflow.MlflowClient().get_registered_model("stdlib")
    assert model.description and model.tags["dataset"] == "stdlib"
    held = mlflow.MlflowClient().get_model_version("stdlib", str(version.version)).tags
    assert held["dataset_fingerprint"] == own.dataset.report["fingerprint"]
    assert figures_beside(version)["served/recall_at_10"] == manifest.quality["recall_at_10"]


@pytest.mark.exhaustive
def test_a_version_is_fetched_whole_or_not_at_all(own: Made) -> None:
    version, _ = registry.register(own.folder)
    folder, manifest = registry.fetch("stdlib", str(version.version))
    assert bundle.read(folder) == manifest == bundle.read(own.folder)
    with pytest.raises(
        TwinspireError, match="stdlib: version 7 cannot be downloaded: models:/stdlib/7: not in the"
    ):
        registry.fetch("stdlib", "7")
    with pytest.raises(MissingStage, match="stdlib: there is no version 7"):
        registry.by_version("stdlib", "7")


def test_the_run_keeps_its_status_and_its_end(store: str, tmp_path: Path) -> None:
    with tracked_run(releases.NAME, "fit", "0") as run_id:
        pass
    client = mlflow.MlflowClient()
    client.set_terminated(run_id, "FINISHED", 1_900_000_000_000)
    folder = releases.small_bundle(tmp_path, "a", run_id=run_id)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PackageNotFoundError):
        patch.setattr(registry, "RUNTIME", ("no-such-package",))
        registry.register(folder)
    registry.register(folder)
    info = client.get_run(run_id).info
    assert (info.status, info.end_time) == ("FINISHED", 1_900_000_000_000)
    assert mlflow.active_run() is None
    found = find_run(releases.NAME, "fit")
    assert found is not None
    assert found.info.run_id == run_id


def test_a_bundle_without_examples_cannot_be_registered(store: str, tmp_path: Path) -> None:
    with tracked_run(releases.NAME, "fit", "0") as run_id:
        pass
    folder = releases.small_bundle(tmp_path, "a", run_id=run_id, examples=())
    with pytest.raises(BundleDamaged, match="has no example queries"):
        registry.register(folder)


@pytest.mark.filterwarnings("ignore::Warning:mlflow")
def test_a_registered_model_refuses_what_it_does_not_know(own: Made) -> None:
    registry.register(own.folder)
    model = mlflow.pyfunc.load_model("models:/stdlib@challenger")
    (hits,) = model.predict(["parse command line arguments"], params={"k": 3})
    assert len(hits) == 3 and not any(hit["weak"] for hit in hits)
    least = hits[1]["score"]
    (best,) = model.predict(["parse command line arguments"], params={"k": 3, "min_score": least})
    assert best == hits[:2]
    for given, params, told in (
        ("parse", {"min_score": math.nan}, "min_score: expected a finite number"),
        ("parse", {"k": -1}, "k: expected"),
        ("parse", {"k": 0}, "k: expected at least 1, got 0"),
        ({"text": "parse", "colour": "red"}, {}, "colour"),
        ("parse", {"filter": "nonsense"}, "filter: character 9: expected <"),
    ):
        with pytest.raises(mlflow.exceptions.MlflowException, match=told) as error:
            model.predict([given], params=params)
        assert error.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return bundle.read(small_bundle(tmp_path_factory.mktemp("card"), "a"))


def test_it_says_what_it_is_how_good_and_where_from(manifest: Manifest) -> None:
    text = model_card.card(manifest)
    for part in (
        "# tiny\n",
        "D = 32, an HNSW index over 60 items",
        "60 items, 80 pairs, test 20, train 50, validation 10. Nobody's.",
        " served  towers alone    BM25\n",
        "\nnDCG@10     0.9123 (0.900 to 0.920)        0.7500  0.7500\n",
        "Verdict: better than BM25 at nDCG@10: 0.912 against 0.750.",
        "ef_search = 64: recall@10 0.9876 against exact search (target 0.95)",
        'mlflow.pyfunc.load_model("models:/tiny@champion")',
        "python -m twinspire.serving serve --model models:/tiny@champion",
        f"- bundle_version: `{manifest.bundle_version}`",
        f"- dataset_fingerprint: `{'f' * 64}`",
        f"- git_commit: `{'c' * 40}`",
    ):
        assert part in text
    assert len(text) < model_card.LIMIT


def test_it_repeats_the_warnings_of_the_training_run(manifest: Manifest) -> None:
    doubted = dataclasses.replace(manifest, quality={**QUALITY, "warnings": ["few queries", "no <loss>"]})
    assert "\n\n**Warning.** few queries.\n\n**Warning.** no " in model_card.card(doubted)
    assert "<loss>" not in model_card.card(doubted)
    assert "Warning" not in model_card.card(manifest)


def test_it_says_the_licence_of_a_pretrained_encoder(manifest: Manifest) -> None:
    assert "encoder" not in model_card.card(manifest)
    about = "mini: bert, 32 dimensions, up to 24 tokens; licence apache-2.0; frozen, on the item side"
    long = {"parts": {f"{n}{'x' * 999}": n for n in range(9)}}  # so that parts of the card are left out
    some = dataclasses.replace(manifest, pretrained=about, dataset={**DATASET, **long})
    assert f"\n\nPretrained encoder: {about}.\n\n" in model_card.card(some)
    hostile = dataclasses.replace(manifest, pretrained="| `a`\n# b " + "x" * 10_000)
    text = model_card.card(hostile)
    assert "\n# b" not in text
    assert "## Lineage" in text


def test_it_fits_the_registry_whatever_the_manifest_says(manifest: Manifest) -> None:
    long = "x" * 10_000
    hostile = dataclasses.replace(
        manifest,
        dataset={**DATASET, "name": f"| `a`\n# b {long}", "parts": {f"{n}{long}": n for n in range(9)}},
        quality={**QUALITY, "verdict": f"{long}\0"},
        examples=({"text": long},),
        git_commit="g" * 10_000,
    )
    text = model_card.card(hostile)
    assert len(text) <= model_card.LIMIT
    assert "\0" not in text
    assert text.startswith("# tiny\n")
    assert f"- bundle_version: `{manifest.bundle_version}`" in text
    assert not [line for line in text.splitlines() if line.startswith("# b")]
    assert max(len(value) for value in model_card.lineage(hostile).values()) <= model_card.CELL


def test_a_query_is_shown_as_a_model_takes_it(tmp_path: Path) -> None:
    assert model_card.as_input({"text": "a"}) == "a"
    assert model_card.as_input({"history": ["a"]}) == {"history": ["a"]}
    assert model_card.as_input({"text": "a", "country": "de"}) == {"text": "a", "country": "de"}
    text = model_card.card(bundle.read(watched_bundle(tmp_path, name="watched")))
    assert '"history": ["item-001"' in text
    assert 'model.predict([{"' in text
    assert "Scores: inner product." in text
