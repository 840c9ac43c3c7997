"""`status`: which bundles answer, how the alias is followed, and what the shadow has found."""

import io
import json
import time
from typing import Any

import grpc
import pytest
from rich.console import Console

from tests.helpers.serving.gateways import decided
from tests.serving.cli.test_commands import Capture, document, failure
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.cli import tables
from twinspire.serving.cli.tables import ages
from twinspire.serving.client.__main__ import main as client_main
from twinspire.serving.retrieval.answer import Answer, Hit, Timing
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


def test_inner_values_have_paths_as_names() -> None:
    output = io.StringIO()
    document = {
        "bundles": [{"role": "champion", "share": 0.95, "requests": 1234}],
        "following": None,
        "shadow": {"last_error": "", "version": "c", "names": ["a", "b"]},
        "tls": False,
        "served_log": {},
    }
    tables.show_document(Console(file=output, width=80), document)
    assert [line.rstrip().split(maxsplit=1) for line in output.getvalue().splitlines()] == [
        ["bundles[0].role", "champion"],
        ["bundles[0].share", "0.95"],
        ["bundles[0].requests", "1,234"],
        ["following", "none"],
        ["shadow.last_error", "none"],
        ["shadow.version", "c"],
        ["shadow.names", "a, b"],
        ["tls", "False"],
    ]


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


def test_without_a_server_the_command_fails(capsys: Capture) -> None:
    assert "127.0.0.1:1" in failure(capsys, "status", "--address", "127.0.0.1:1", "--timeout", "1")


def test_names_of_display_fields_are_no_markup() -> None:
    output = io.StringIO()
    hit = Hit("a", 1.0, {"[/]": "left", "[red]": "right"})
    tables.show_answer(Console(file=output, width=80), Answer((hit,), "v1", Timing(0, 0, 0)))
    assert output.getvalue().splitlines()[0].split() == ["rank", "score", "[/]", "[red]", "id"]


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


def test_control_characters_of_items_and_scores_are_replaced() -> None:
    output = io.StringIO()
    console = Console(file=output, width=120)
    hit = Hit("a", 1.0, {"name": CONTROLS, CONTROLS: "x"})
    tables.show_answer(console, Answer((hit,), "v1", Timing(0, 0, 0)))
    tables.show_pairs(console, {CONTROLS: CONTROLS})
    written = output.getvalue()
    assert not set(written) & {"\x1b", "\x07", "\x9b", "\x7f", "\t"}
    assert written.count(SHOWN) == 4


def test_an_answer_without_hits_fits_any_terminal() -> None:
    output = io.StringIO()
    tables.show_answer(Console(file=output, width=10), Answer((), "v1", Timing(0, 0, 0)))
    assert "bundle v1" in output.getvalue()
