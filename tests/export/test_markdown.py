"""Text from outside in Markdown is shown as it was written; what the commands of export print."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from rich.console import Console

from tests.helpers.releases import DATASET, LATENCY, PARITY, QUALITY, small_bundle
from tests.helpers.rendered import HOSTILE, elements, shown
from twinspire.export import terminal
from twinspire.export.release import model_card, registry
from twinspire.export.release.decision_report import write_report
from twinspire.export.release.gate import ComparedVersion, Decision, GateResult
from twinspire.export.release.promote import summary
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


RESULTS = (
    GateResult("parity", 4.47e-7, 1e-5, True, ""),
    GateResult("index_recall", 0.97, 0.98, False, ""),
    GateResult("quality", None, -0.01, True, ""),
    GateResult("baseline", -0.05, 0.0, True, "", "BM25 is better"),
    GateResult("query_tower_latency", 1.1, 1.25, True, ""),
    GateResult("bundle_size", 21.17, 4096.0, True, ""),
    GateResult("load_time", 0.041, 60.0, True, ""),
)
GATES = [*map(summary, RESULTS)]
VARIANTS = {
    "fp32": {"size_bytes": 10 * 2**20, "size_share": 1.0},
    "int8_tables": {"size_bytes": 4 * 2**20, "size_share": 0.4, "recall_at_10_delta": -0.0012},
}
BUNDLE: dict[str, Any] = {
    "reused": False,
    "bundle_version": "b" * 64,
    "bundle": "bundles/b",
    "quality": QUALITY,
    "ann": {"ann_recall_at_10": 0.99, "target": 0.98, "ef_search": 32},
    "parity": {"query": {"max_abs_diff": 1e-7}},
    "hybrid": {"shipped": False, "why": "it is no better"},
    "scores": {"score_reference": 0.51, "weak_score": 0.2389, "weak_of_wrong": 0.2349},
    "precision": {
        "query": {"variants": VARIANTS, "chosen": "int8_tables"},
        "item": {"variants": VARIANTS, "chosen": "fp32"},
    },
    "latency": {
        "metrics": {
            "torch_over_onnx_b1": 8.64,
            "query_tower_b1_p50_us": 16.2,
            "item_torch_over_onnx_b32": 1.5,
            "item_tower_b32_p50_us": 9494.0,
        }
    },
}


def moved(gates: list[Any], colour: bool = False, warnings: tuple[str, ...] = ()) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=120, force_terminal=colour, color_system="standard" if colour else None, markup=False
    )
    move = {"gates": gates, "before": "", "action": "promote", "warnings": warnings}
    terminal.show_record({"model": "models:/shop/1", "move": move}, console)
    return out.getvalue()


def test_each_gate_has_its_unit_and_the_side_of_its_bound() -> None:
    lines = [" ".join(line.split()) for line in moved(GATES).splitlines()]
    assert lines[0] == "gate figure bound outcome"
    for line in (
        "parity of torch and ONNX Runtime 4.5e-07 ≤ 1.0e-05 pass",
        "recall of the index 0.9700 ≥ 0.9800 refused",
        "p99 of the query tower 1.10 × ≤ 1.25 × pass",
        "size of the bundle 21.2 MiB ≤ 4,096.0 MiB pass",
        "time to load 0.04 s ≤ 60.00 s pass",
        "quality against the best baseline -0.0500 ≥ +0.0000 warned",
    ):
        assert line in lines


def test_a_model_that_loses_to_a_baseline_is_promoted_with_a_warning() -> None:
    assert "warning: BM25 is better" in moved(GATES)
    assert "warning" not in moved(GATES[:2])
    lines = moved(GATES, warnings=("the [untrained] towers were kept",)).splitlines()
    assert lines[-3:-1] == ["warning: BM25 is better", "warning: the [untrained] towers were kept"]


def test_the_history_repeats_the_warnings_of_the_champion_alone() -> None:
    old, new, other = (
        {
            "number": n,
            "at": "2026-12-01T10:00:00.000",
            "actor": "ann@host",
            "action": action,
            "outcome": "done",
            "before": "",
            "after": version,
            "gates": gates,
            "reason": "[b]why[/b]",
            "warnings": warnings,
        }
        for n, (action, version, gates, warnings) in enumerate(
            [
                ("promote", "1", GATES, ("few queries",)),
                ("rollback", "1", (), ()),
                ("refuse", "2", GATES[:2], ("no loss",)),
            ]
        )
    )
    result = {
        "name": "shop",
        "champion": "1",
        "records": [old, new, other],
        "beside": [],
        "problems": ["record 4: missing"],
    }
    out = io.StringIO()
    terminal.show_history(result, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert "[b]why[/b]" in lines[1]
    assert lines[4:7] == ["champion: 1", "warning: BM25 is better", "warning: few queries"]
    assert lines[7] == "broken: record 4: missing"


def test_a_bundle_is_shown_with_its_figures_and_what_was_decided() -> None:
    out = io.StringIO()
    terminal.show_bundle(BUNDLE, Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    query, item = (line for line in lines if "tower:" in line)
    assert "int8_tables, 4.0 MiB (40% of fp32, recall@10 -0.0012), 16 µs at batch 1" in query
    assert "torch 1.5 times as long; 3,371 items/s" in item
    for part in ("hybrid: no", "weak answers: with a best score below 0.239", "ann_recall_at_10 0.9900"):
        assert any(line.startswith(part) or part in line for line in lines), part
