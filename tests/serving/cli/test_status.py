"""`status`: which bundles answer, how the alias is followed, and what the shadow has found."""

import json
import time
from typing import Any

import grpc
import pytest

from tests.helpers.serving.gateways import decided
from tests.serving.cli.test_commands import Capture, document
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.cli.tables import ages
from twinspire.serving.client.__main__ import main as client_main
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

NOW = 1_000_000.0
CHAMPION: dict[str, Any] = {
    "role": "champion",
    "bundle_version": "a" * 64,
    "model_version": "3",
    "share": 0.95,
    "requests": 1234,
    "errors": 5,
    "failures": 2,
    "score_reference": None,
    "weak_score": None,
}
FOLLOWING: dict[str, Any] = {
    "model": "models:/tiny@champion",
    "last_check": NOW - 3,
    "next_check": NOW + 7,
    "last_error": "",
    "failures": 0,
    "candidate": "",
    "candidate_bundle": "",
    "candidate_stage": "",
    "swaps": 2,
    "refused": 0,
    "last_swap": NOW - 600,
}
SHADOW: dict[str, Any] = {
    "model": "models:/tiny@challenger",
    "bundle_version": "c" * 64,
    "model_version": "4",
    "queries": 1000,
    "dropped": 12,
    "errors": 1,
    "overlap_at_10": 0.875,
    "score_shift": -0.0123,
    "empty": 2,
    "last_error": "",
}


def test_a_clock_that_was_set_back_gives_no_negative_age() -> None:
    assert ages(FOLLOWING, NOW - 5000) == {
        "last_check_seconds_ago": 0.0,
        "next_check_in_seconds": 5007.0,
        "last_swap_seconds_ago": 0.0,
    }
    never = {**FOLLOWING, "last_check": 0.0, "next_check": 0.0, "last_swap": 0.0}
    assert set(ages(never, NOW).values()) == {None}


def told() -> dict[str, Any]:
    """What a service that follows an alias and has a shadow adds to its state."""
    following = {**FOLLOWING, "last_check": time.time() - 60, "next_check": time.time() + 60}
    return {
        "bundles": [wire.ServedBundle(**CHAMPION)],
        "following": wire.Following(**following),
        "shadow": wire.Shadow(**SHADOW),
    }


def test_the_command_prints_a_table_and_a_document(capsys: Capture, retriever: Retriever) -> None:
    with RetrievalServer(retriever, status=told) as server:
        found = document(capsys, "status", "--address", server.address)
        assert found["name"] == "tiny"
        assert found["bundles"] == [CHAMPION]
        assert found["following"]["model"] == "models:/tiny@champion"
        assert 59 < found["following"]["last_check_seconds_ago"] < 200
        assert found["following"]["next_check_in_seconds"] < 61
        assert found["shadow"] == pytest.approx(SHADOW)
        assert client_main(["status", "--address", server.address]) == 0
        lines = capsys.readouterr().out.splitlines()
        heads = {line.split()[0] for line in lines}
        assert {"name", "bundles[0].role", "following.candidate", "following.last_error"} <= heads
        assert {"shadow.overlap_at_10", "workers_up", "uptime_seconds"} <= heads
        assert client_main(["info", "--address", server.address]) == 0
        assert "state.following.model" in capsys.readouterr().out


def test_a_server_of_a_folder_has_a_status_too(capsys: Capture, retriever: Retriever) -> None:
    with RetrievalServer(retriever) as server:
        found = document(capsys, "status", "--address", server.address)
        assert (found["following"], found["shadow"]) == (None, None)
        assert json.dumps(found)


CONTROLS = "a\x1b]0;title\x07\x1b[2J\x9b2J\x7f\tb\nc"
SHOWN = "a�]0;title��[2J�2J� b c"


def test_control_characters_of_a_service_do_not_reach_the_terminal(capsys: Capture) -> None:
    with decided() as (_, address):
        assert client_main(["search", CONTROLS, "--address", address]) == 0
        assert SHOWN in capsys.readouterr().out
        assert client_main(["search", CONTROLS, "--address", address, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["hits"][0]["id"] == CONTROLS
    with decided(code=grpc.StatusCode.INVALID_ARGUMENT, text=CONTROLS) as (_, address):
        assert client_main(["search", "a", "--address", address]) == 1
        told = capsys.readouterr().err
    assert not set(told) & {"\x1b", "\x07", "\x9b", "\x7f"}
    assert "a�]0;title" in told
