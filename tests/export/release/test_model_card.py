"""The model card: everything a reader asks, from the manifest alone, and never too long for the registry."""

import dataclasses
from pathlib import Path

import pytest

from tests.helpers.releases import DATASET, QUALITY, small_bundle
from tests.helpers.tiny import watched_bundle
from twinspire.export.release import model_card
from twinspire.protos import bundle
from twinspire.protos.bundle import Manifest


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
