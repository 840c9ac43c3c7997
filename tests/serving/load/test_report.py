"""The report writer of all tests: tables of what was measured, targets, and what must be noticed."""

import io
from typing import Any

from rich.console import Console

from tests.load.plan import Target
from tests.load.report import Table, latencies, show

TABLE = Table(
    "closed loop",
    ("server", "requests/s", "p50 / p99 ms"),
    {"a": ["first"], "b": ["second"]},
    ("{}_rps", latencies),
)
REPORT: dict[str, Any] = {
    "a_rps": 12.0,
    "a_rps_min": 10.0,
    "a_rps_max": 15.0,
    "a_p50_us": 1500.0,
    "a_p99_us": None,
    "ratio": 2.0,
}


def shown(report: dict[str, Any], **more: Any) -> list[str]:
    """The lines that are printed, with one space for several."""
    output = io.StringIO()
    targets = (Target("ratio", "the ratio", ">=", 3.0), Target("absent", "another", "<=", 1.0))
    show(Console(file=output, width=120), report, [TABLE], targets, ["by [this] machine"], **more)
    return [" ".join(line.split()) for line in output.getvalue().splitlines()]


def test_a_table_has_a_line_for_what_was_measured() -> None:
    assert TABLE.lines(REPORT) == [["first", "12 [dim]10-15[/]", "1.50 / -"]]
    assert "first 12 10-15 1.50 / -" in shown(REPORT)
    lines = shown({"ratio": 2.0})
    assert not any("requests/s" in line for line in lines)  # no table without lines
    assert "the ratio >= 3 2 missed" in lines
    assert not any("another" in line for line in lines)


def test_what_must_be_noticed_is_shown_as_it_is() -> None:
    faults = {
        "notes": ["not [pinned]"],
        "errors": {"search: UNAVAILABLE: [gone]": 3},
        "content_different": 2,
        "content_first_difference": "query 7: place 1",
    }
    assert shown(REPORT | faults, remarks=["and a remark"])[-5:] == [
        "not [pinned]",
        "3 x search: UNAVAILABLE: [gone]",
        "2 answers differ from the bundle's own: query 7: place 1",
        "and a remark",
        "by [this] machine",
    ]
    assert shown(REPORT)[-1] == "by [this] machine"
