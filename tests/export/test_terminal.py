"""What the commands of export print: gates with their units, warnings, one line a tower."""

import io
from typing import Any

import pytest
from rich.console import Console

from tests.helpers.releases import OF_LABELS, QUALITY
from twinspire.export import terminal
from twinspire.train.metrics import SHOWN

GATES = [
    {"name": "parity", "figure": 4.47e-7, "bound": 1e-5, "holds": True},
    {"name": "index_recall", "figure": 0.97, "bound": 0.98, "holds": False},
    {
        "name": "quality",
        "figure": None,
        "bound": -0.01,
        "holds": True,
    },
    {"name": "baseline", "figure": -0.05, "bound": 0.0, "holds": True, "warning": "BM25 is better"},
    {"name": "query_tower_latency", "figure": 1.1, "bound": 1.25, "holds": True},
    {"name": "bundle_size", "figure": 21.17, "bound": 4096.0, "holds": True},
    {"name": "load_time", "figure": 0.041, "bound": 60.0, "holds": True},
]
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
    "scores": {"why": "queries do not need a text"},
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
    console = Console(file=out, width=120, force_terminal=colour, color_system="standard" if colour else None)
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


def test_no_figure_stands_beside_a_bound_on_a_difference() -> None:
    (line,) = (line for line in moved(GATES).splitlines() if "quality against the champion" in line)
    assert line.split()[-5:] == ["–", "≥", "-0.0100", "not", "compared"]


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
            "reason": "",
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
    result = {"name": "shop", "champion": "1", "records": [old, new, other], "beside": [], "problems": []}
    out = io.StringIO()
    terminal.show_history(result, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert [line.endswith("warned") for line in map(str.rstrip, lines[1:4])] == [True, False, True]
    assert lines[4:] == ["champion: 1", "warning: BM25 is better", "warning: few queries"]


def test_outcomes_are_coloured_on_a_terminal() -> None:
    text = moved(GATES, colour=True)
    assert "\x1b[32mpass" in text
    assert "\x1b[1;31mrefused" in text


@pytest.mark.parametrize("reused", [False, True])
def test_a_bundle_takes_one_line_a_tower(reused: bool) -> None:
    out = io.StringIO()
    terminal.show_bundle({**BUNDLE, "reused": reused}, Console(file=out, width=120))
    towers = [line for line in out.getvalue().splitlines() if "tower:" in line]
    assert towers == [
        "query tower: int8_tables, 4.0 MiB (40% of fp32, recall@10 -0.0012), 16 µs at batch 1, "
        "torch 8.6 times as long",
        "item tower: fp32, 10.0 MiB, 9,494 µs at batch 32, torch 1.5 times as long; 3,371 items/s",
    ]


def test_the_line_of_a_tower_of_long_items_is_of_the_largest_batch_that_was_timed() -> None:
    out = io.StringIO()
    short = {name.replace("b32", "b8"): value for name, value in BUNDLE["latency"]["metrics"].items()}
    report = {**BUNDLE, "latency": {"metrics": short}, "reused": False}
    terminal.show_bundle(report, Console(file=out, width=120))
    assert "9,494 µs at batch 8, torch 1.5 times as long; 843 items/s" in out.getvalue()


@pytest.mark.parametrize(
    ("report", "line"),
    [
        ({"why": "queries do not need a text"}, "none is marked as such: queries do not need a text"),
        (
            {
                "score_reference": 0.51,
                "weak_score": 0.2389,
                "weak_of_wrong": 0.2349,
            },
            "with a best score below 0.239 the service marks an answer as weak, and a page can say that "
            "nothing matches well; so it is for 23% of the wrong answers on validation, and seldom for a "
            "right answer",
        ),
    ],
)
def test_a_bundle_says_which_answers_are_weak(report: dict[str, Any], line: str) -> None:
    out = io.StringIO()
    terminal.show_bundle({**BUNDLE, "scores": report}, Console(file=out, width=120))
    assert f"weak answers: {line}" in out.getvalue().splitlines()


def test_what_is_served_is_shown_by_known_and_new_queries_too() -> None:
    groups = {f"{each}_queries": 10.0 for each in ("seen", "unseen")}
    groups |= {f"{prefix}{each}_ndcg_at_10": 0.5 for prefix in ("", "bm25_") for each in ("seen", "unseen")}
    groups |= {f"bm25_difference_seen_ndcg_at_10{end}": 0.25 for end in ("", "_low", "_high")}
    out = io.StringIO()
    terminal.show_quality({**QUALITY, **groups, "drawn": "9 items"}, Console(file=out, width=120))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    start = lines.index("nDCG@10, test all seen unseen")
    assert lines[start + 1 : start + 5] == [
        "queries 20 10 10",
        "served 0.9123 0.5000 0.5000",
        "BM25 0.7500 0.5000 0.5000",
        "nDCG@10, difference to the best baseline, 95 % intervals, 9 items drawn: "
        "seen +0.2500 (+0.2500 to +0.2500, BM25)",
    ]


def test_labels_come_before_rankings_where_clicks_are_predicted() -> None:
    out = io.StringIO()
    terminal.show_quality({**QUALITY, **OF_LABELS}, Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    assert lines[0].split()[:5] == ["labelled", "pairs", "AUC", "log", "loss"]
    assert lines[1].split() == ["two-tower", "0.7500", "0.5500", "0.0100"]
    assert lines[2].split() == ["item", "means", "0.7000", "0.6000", "+0.0500"]
    assert lines[3].lstrip().startswith("test, 20 queries")
    assert sum("labelled pairs" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (
            {"shipped": False, "why": "it is no better"},
            "hybrid: no, the towers alone answer: it is no better",
        ),
        ({"shipped": True, "why": "better", "weight": 0.3}, "hybrid: yes, BM25 has a weight of 0.3: better"),
    ],
)
def test_a_bundle_says_whether_words_take_part_in_its_answers(report: dict[str, Any], line: str) -> None:
    out = io.StringIO()
    quality = {**QUALITY, "exact_ndcg_at_10": 0.5} | {f"exact_{name}": 0.5 for name in SHOWN}
    terminal.show_bundle({**BUNDLE, "hybrid": report, "quality": quality}, Console(file=out, width=120))
    assert line in out.getvalue().splitlines()
    assert "towers alone" in out.getvalue()


@pytest.mark.parametrize(
    ("ann", "expected"),
    [
        (
            {"ann_recall_at_10": 0.9871, "ef_search": 96, "target": 0.98, "chosen": {"exact": False}},
            "ann_recall_at_10 0.9871 at ef_search 96 (target 0.98)",
        ),
        (
            {"ann_recall_at_10": 1.0, "ef_search": 96, "target": 0.98, "chosen": {"exact": True}},
            "exact search, which compares all items",
        ),
    ],
)
def test_a_width_of_the_search_is_told_of_a_graph_alone(ann: dict[str, Any], expected: str) -> None:
    assert terminal._index_text(ann) == expected
