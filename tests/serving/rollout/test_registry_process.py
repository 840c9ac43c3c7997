"""The registry's process where it cannot be started, ends, or answers with an error."""

import sys

import pytest

from twinspire.protos import entry_points
from twinspire.protos.errors import MissingStage, TwinspireError, Unavailable
from twinspire.serving.rollout.registry import Registered, RegistryProcess

MODEL = "models:/tiny@champion"
ANSWERS = """
import sys
from multiprocessing.connection import Connection
from twinspire.protos.errors import *
from twinspire.serving.rollout.registry import Registered
connection = Connection(int(sys.argv[1]))
while connection.recv():
    connection.send(eval(sys.argv[2]))
"""


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """A real process takes the registry's place and gives one answer to every call."""

    def command(module: str, descriptor: str) -> list[str]:
        return [sys.executable, "-c", ANSWERS, descriptor, answer]

    monkeypatch.setattr(entry_points, "command", command)


def test_a_process_that_cannot_be_started_is_unavailable_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RegistryProcess() as registry:
        monkeypatch.setattr(entry_points, "command", lambda module, descriptor: ["/nowhere/python"])
        for _ in range(2):
            with pytest.raises(Unavailable, match="the registry's process cannot be started: No such file"):
                registry.resolve(MODEL)
        answer_with(monkeypatch, 'Registered("tiny", "3")')
        assert registry.resolve(MODEL) == Registered("tiny", "3")


@pytest.mark.parametrize("kind", [MissingStage, Unavailable])
def test_an_error_of_the_registry_is_raised(
    monkeypatch: pytest.MonkeyPatch, kind: type[TwinspireError]
) -> None:
    answer_with(monkeypatch, f'{kind.__name__}("the tag is odd")')
    with RegistryProcess() as registry:
        for _ in range(2):
            with pytest.raises(kind, match="the tag is odd"):
                registry.resolve(MODEL)


def test_a_process_that_ends_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, "sys.exit(7)")
    with RegistryProcess() as registry, pytest.raises(Unavailable, match=r"ended \(exit code 7\)"):
        registry.resolve(MODEL)
