"""The registry's process where it cannot be started, or answers with an error of a kind that is not known."""

import json
import sys
from typing import Any

import pytest

from twinspire.protos import entry_points
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.serving.rollout.registry_process import RegistryProcess

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
