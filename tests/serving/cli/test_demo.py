"""The demo asks a real server and shows what a person can read."""

import io
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.helpers.tiny import item_names, watched_bundle
from twinspire.serving.__main__ import run_demo
from twinspire.serving.cli import demo


def shown(folder: Path) -> tuple[dict[str, Any], list[str]]:
    console = Console(file=io.StringIO(), width=120)
    document = demo.run(folder, console)
    assert isinstance(console.file, io.StringIO)
    return document, console.file.getvalue().splitlines()


def test_texts_are_asked(plain: Path) -> None:
    document, lines = shown(plain)
    names = item_names(300)[:5]
    assert [answer["query"] for answer in document["answers"]] == [{"text": name} for name in names]
    assert [answer["hits"][0]["id"] for answer in document["answers"]] == [f"item-{n:03}" for n in range(5)]
    assert {*names} <= {*lines}
    assert document["manifest"]["name"] == "tiny"


def test_a_history_is_shown_by_name_and_left_out_of_its_answer(tmp_path: Path) -> None:
    dataset = {"kind": "tiny", "items": 300, "repeats": "first"}
    document, lines = shown(watched_bundle(tmp_path, dataset=dataset))
    names = item_names(300)
    start = lines.index("history: 6 items, the newest last")
    assert lines[start - 1] == "country: de"
    assert lines[start + 1 : start + 7] == ["  ... 1 before", *(f"  {name}" for name in names[2:7])]
    assert lines[start + 7].split()[:3] == ["rank", "score", "name"]
    assert "history: empty" in lines
    assert len(document["answers"]) == 3
    for answer in document["answers"]:
        assert len(answer["hits"]) == 5
        assert not {*answer["query"]["history"]} & {hit["id"] for hit in answer["hits"]}
    assert [answer["basis"] for answer in document["answers"]] == ["query", "query", "context"]
    assert any(line.startswith("no known item in the history") for line in lines)


def test_a_summary_names_what_was_measured_beside_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quality = {
        "queries": 1200,
        "recall_at_10": 0.25,
        "exact_recall_at_10": 0.26,
        "popularity_recall_at_10": 0.125,
        "cold_recall_at_10": 0.01,  # of other queries
        "bm25_recall_at_10": 0.2,
        "mrr_at_10": 0.1,
        "exact_mrr_at_10": 0.1,
        "verdict": "no difference beyond chance to BM25",
    }
    manifest: dict[str, Any] = {
        "dataset": {"name": "films", "items": 3000, "parts": {"train": 9000, "test": 1200, "cold": 7}},
        "quality": quality,
        "latency": {
            "threads": 1,
            "metrics": {"query_tower_b1_p50_us": 50.0, "torch_b1_p50_us": 400.0},
        },
        "ann": {"ann_recall_at_10": 0.999},
        "index": {"ef_search": 64},
        "parity": {"query": {"max_abs_diff": 1e-7}, "item": {"max_abs_diff": 2e-7}},
        "name": "fil ms",
        "bundle_version": "0" * 64,
        "run_id": "0" * 32,
    }
    found = demo.summary(manifest)
    assert found["recall@10"] == "0.250 served, 0.260 towers alone, 0.200 BM25, 0.125 popularity"
    assert found["verdict"] == quality["verdict"]
    assert found["data"] == "films: 3,000 items; pairs: 9,000 train, 1,200 test, 7 cold"
    assert found["MRR@10"] == "0.100 served, 0.100 towers alone"
    assert not {"served text", "nDCG@10"} & {*found}
    page = "http://127.0.0.1:5000/#/models/fil%20ms?workflowType=machine_learning"
    assert found["MLflow UI"] == f"make ui, then {page}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@tracking.example:8443/mlflow/")
    page = "https://tracking.example:8443/mlflow/#/models/fil%20ms?workflowType=machine_learning"
    assert demo.summary(manifest)["MLflow UI"] == page


def test_the_summary_ends_with_the_warnings_of_the_training_run(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = {"quality": {"warnings": ["the [untrained] towers were kept", "few queries"]}}
    monkeypatch.setattr(demo, "run", lambda *_: {"manifest": manifest})
    monkeypatch.setattr(demo, "summary", lambda _: {"data": "films"})
    _, show = run_demo(Namespace(bundle=plain, model=None, json=False))
    console = Console(file=io.StringIO(), width=20, markup=False)
    show(console)
    assert console.file.getvalue().splitlines()[2:] == [  # type: ignore[attr-defined]
        "warning: the [untrained] towers were kept",
        "warning: few queries",
    ]
