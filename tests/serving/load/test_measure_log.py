"""The measurement of the served log runs."""

import json
import sys
from pathlib import Path

import pytest

from tests.load import measure_log


@pytest.mark.exhaustive
@pytest.mark.quiet  # it loads a service
def test_the_measurement_of_the_log_runs(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["measure_log", str(plain), "--rounds", "2", "--seconds", "0.2", "--services", "2"]
    )
    measure_log.main()
    found = json.loads(capsys.readouterr().out)
    assert found["answers"] > 0
    assert 0 <= found["dropped"] < found["answers"]
    for name in ("worker_us", "rps", "p99_us"):
        low, high = found[name]["interval"]
        assert 0 < low <= found[name]["ratio"] <= high
