"""The registry's process where it cannot be started, or answers with an error of a kind that is not known."""

import json
import logging
import sys
from typing import Any

import pytest

from tests.helpers.serving.following import Wound
from twinspire.protos import entry_points
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.serving.rollout.registry_process import RegistryProcess
from twinspire.serving.rollout.shadow_log import ShadowLog
from twinspire.serving.rollout.target import Clock
from twinspire.serving.shared_state import SharedState

MODEL = "models:/tiny@champion"
ANSWERS = "import sys\nfor line in sys.stdin: print(sys.argv[1], flush=True)"


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    """A real process takes the registry's place and gives one answer to every call."""
    command = [sys.executable, "-c", ANSWERS, json.dumps(answer)]
    monkeypatch.setattr(entry_points, "command", lambda module: command)


def test_a_process_that_cannot_be_started_is_unavailable_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RegistryProcess() as registry:
        monkeypatch.setattr(entry_points, "command", lambda module: ["/nowhere/python"])
        for _ in range(2):
            with pytest.raises(Unavailable, match="the registry's process cannot be started: No such file"):
                registry.resolve(MODEL)
        answer_with(monkeypatch, {"result": ["tiny", "3", None]})
        assert registry.resolve(MODEL).version == "3"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("MissingStage", MissingStage), ("Unavailable", Unavailable), ("NewError", Unavailable)],
)
def test_an_error_of_an_unknown_kind_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Exception]
) -> None:
    answer_with(monkeypatch, {"error": name, "text": "the tag is odd"})
    with RegistryProcess() as registry:
        for _ in range(2):
            with pytest.raises(kind, match="the tag is odd"):
                registry.resolve(MODEL)


def test_the_log_of_the_shadow_goes_on_without_the_registrys_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock: Clock = Wound()
    shared_state = SharedState.create(("shadow",))
    sums = {"overlaps": 8, "shifts": 8, "log_ratios": 0}
    note = {
        "bundle_version": "b" * 64,
        "champion": "a" * 64,
        "round": 1,
        "queries": 8,
        "empty": 1,
        "sums": sums,
    }
    note |= {"overlap_at_10": 0.75, "score_shift": -0.5, "latency_ratio": 0.0}
    shared_state.write("shadow", note)
    with RegistryProcess() as registry:
        shadow_log = ShadowLog(MODEL, shared_state, registry, clock)
        monkeypatch.setattr(entry_points, "command", lambda module: ["/nowhere/python"])
        with caplog.at_level(logging.WARNING):
            shadow_log.end()
        assert "the registry's process cannot be started" in caplog.text
        answer_with(monkeypatch, {"error": "NewError", "text": "the tag is odd"})
        with caplog.at_level(logging.WARNING):
            shadow_log.end()
        assert "the tag is odd" in caplog.text
