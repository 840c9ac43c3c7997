"""The measurement of events runs, and finds nothing lost."""

import json
import sys
from pathlib import Path

import pytest

from tests.load import measure_events


@pytest.mark.exhaustive
@pytest.mark.quiet  # it kills processes
def test_the_measurement_of_events_runs(
    watched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--rounds", "2", "--searches", "5", "--seconds", "0.5", "--kills", "3")
    monkeypatch.setattr(sys, "argv", ["measure_events", str(watched), *few])
    measure_events.main()
    found = json.loads(capsys.readouterr().out)
    assert found["events_per_s"] > 0
    assert found["changed_after_ms"].keys() == found["hidden_after_ms"].keys() == {"p50", "p99"}
    for name in ("search", "exclude_history"):
        assert len(found[name]["ratios"]) == 2
    assert found["kills"]["acknowledged"] > 0
    assert found["kills"]["killed"] == {"worker": 1, "store": 1, "supervisor": 1}
    assert (found["kills"]["lost"], found["kills"]["twice"]) == (0, 0)
