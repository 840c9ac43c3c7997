"""Text from outside in Markdown: shown as it is, without an element, a link or a row of its own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.helpers.releases import DATASET, LATENCY, PARITY, QUALITY, small_bundle
from tests.helpers.rendered import HOSTILE, elements, shown
from twinspire.export.release import model_card, registry
from twinspire.export.release.decision_report import write_report
from twinspire.export.release.gate import ComparedVersion, Decision, GateResult
from twinspire.protos import bundle
from twinspire.train import markdown
from twinspire.train.training.tracking import experiment_id

ALL = " ".join(HOSTILE)
NAME = "tiny_a_b--c"  # a manifest with another kind of name is refused


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("shape", ["{}", "# {}", "a {} b", "- {}", "- x: {}"])
def test_hostile_text_adds_no_element(text: str, shape: str) -> None:
    (paragraph, *_) = elements(shape.format("x"))
    assert elements(shape.format(markdown.plain(text))) in (
        elements(shape.format("x")),
        [*elements(shape.format("x")), ("code", [])],
    ), paragraph
    assert elements(shape.format(markdown.code(text))) == elements(shape.format("`x`"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_cell(text: str) -> None:
    for made, harmless in ((markdown.plain(text), "x"), (markdown.code(text), "`x`")):
        page = markdown.table(["a", "b"], [[made, "y"], ["z", made]], "lr")
        expected = elements(markdown.table(["a", "b"], [[harmless, "y"], ["z", harmless]], "lr"))
        assert [each for each in elements(page) if each[0] != "code"] == [
            each for each in expected if each[0] != "code"
        ]


@pytest.mark.parametrize("text", ["a_b_c", "it's 5 % & <more>", "*a* | [b]", "nDCG@10 (0.9)", "1. \\x", "#"])
def test_text_reads_as_it_was_written(text: str) -> None:
    assert shown(f"- {markdown.plain(text)}").strip() == text


def test_text_is_cut_before_it_is_escaped() -> None:
    assert markdown.plain("<" * 9, limit=3) == "&lt;&lt;…"
    assert elements(markdown.code("")) == elements("`x`")


def test_an_address_becomes_no_link() -> None:
    for text in ("see http://example.com", "www.example.com", "a@example.com"):
        assert markdown.plain(text) == f"`{text}`"


def hostile_bundle(parent: Path, text: str, name: str, **manifest: Any) -> Path:
    """A bundle into whose manifest everything that a page shows is put from outside."""
    machine = {"processor": text, "cores": 2, "system": text}
    return small_bundle(
        parent,
        "hostile",
        name=name,
        dataset={**DATASET, "name": text, "parts": {text: 5}, "origin": {"licence": text}},
        quality={**QUALITY, "verdict": text},
        parity={text: PARITY["query"]},
        latency={**LATENCY, "machine": machine},
        examples=({"text": f"{text[:20]}\n```\n<b>"},),
        git_commit=text,
        **manifest,
    )


def test_the_card_of_a_registered_version_shows_hostile_names_as_text(store: str, tmp_path: Path) -> None:
    client = mlflow.MlflowClient()
    pages = []
    for name, text in ((NAME, ALL), ("x_y_z--c", "x")):
        run = client.create_run(experiment_id("hostile"))
        folder = hostile_bundle(tmp_path, text, name, run_id=run.info.run_id)
        version, _ = registry.register(folder)
        described = client.get_model_version(name, str(version.version)).description
        assert described is not None
        assert len(described) <= model_card.LIMIT
        pages.append(described)
    hostile, harmless = ([each for each in elements(page) if each[0] != "code"] for page in pages)
    assert hostile == harmless
    assert shown(pages[0]).startswith(NAME)


def test_the_page_of_a_decision_shows_hostile_names_as_text(tmp_path: Path) -> None:
    pages = []
    for n, text in enumerate((ALL, "x")):
        folder = hostile_bundle(tmp_path / f"{n}", text, NAME, split_hash=text)
        manifest = dataclasses.replace(bundle.read(folder), bundle_version=text)
        side = ComparedVersion(text, folder, manifest)
        results = (
            GateResult("parity", 1e-7, 1e-5, True, text),
            GateResult("quality", -1.0, 0.0, False, text),
        )
        measured = {"quality": {"error": text}}
        write_report(Decision(side, side, results, measured), tmp_path / f"report-{n}")
        pages.append((tmp_path / f"report-{n}" / "decision.md").read_text())
        assert json.loads((tmp_path / f"report-{n}" / "decision.json").read_text())["challenger"]
    hostile, harmless = ([each for each in elements(page) if each[0] != "code"] for page in pages)
    assert hostile == harmless
