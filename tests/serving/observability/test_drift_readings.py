"""The metrics of drift, from the document in the folder of the served log."""

import json
from pathlib import Path
from typing import Any

import pytest

from twinspire.serving.observability import metrics
from twinspire.serving.service_status import drift_readings

FEATURE = {"psi": 0.25, "p": 1e-9, "effect": None, "drifted": True}
DOCUMENT: dict[str, Any] = {
    "bundle": "abc",
    "computed": 1.7e9,
    "features": {"device": FEATURE, "text.length": {**FEATURE, "psi": 0.01, "drifted": False}},
}


def test_the_newest_result_of_the_champion_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "drift.json"
    assert [*drift_readings(path, "abc")] == []
    path.write_text(json.dumps(DOCUMENT))
    found = dict(drift_readings(path, "abc"))
    assert found[metrics.DRIFT_PSI] == [(["device"], 0.25), (["text.length"], 0.01)]
    assert found[metrics.DRIFT_DETECTED] == [(["device"], 1.0), (["text.length"], 0.0)]
    assert found[metrics.DRIFT_TIME] == [([], 1.7e9)]
    assert [*drift_readings(path, "another")] == []


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "[" * 100, json.dumps({**DOCUMENT, "features": {"device": {}}})),
        *(json.dumps({**DOCUMENT, "features": []}), json.dumps({**DOCUMENT, "computed": "now"})),
    ],
)
def test_a_document_that_cannot_be_read_shows_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "drift.json"
    path.write_text(content)
    assert [*drift_readings(path, "abc")] == []
