"""`status`: which bundles answer, how the alias is followed, and what the shadow has found."""

import io
import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from tests.helpers.serving.gateways import decided
from tests.serving.cli.test_commands import Capture, document, failure
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.cli import tables
from twinspire.serving.cli.tables import ages, duration, release_rows
from twinspire.serving.client.__main__ import main as client_main
from twinspire.serving.retrieval.answer import Answer, Hit, Scores, Timing
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


def rows(following: dict[str, Any], shadow: dict[str, Any] | None = None) -> dict[str, str]:
    state = {"bundles": [CHAMPION], "following": following, "shadow": shadow or {}}
    return release_rows(state, NOW)


def test_when_all_is_well() -> None:
    assert rows(FOLLOWING) == {
        "champion": "version 3, bundle aaaaaaaaaaaa, 95 % of the requests; 1,234 answered, 5 of them with an "
        "error",
        "follows": "models:/tiny@champion, checked 3 s ago, again in 7 s",
        "candidate": "none",
        "last error": "none",
        "changes": "2 swaps, the last 10 min ago; 0 versions refused",
    }


def test_a_candidate_that_is_refused_is_told_with_its_reason() -> None:
    refused = {
        **FOLLOWING,
        "candidate": "4",
        "candidate_bundle": "b" * 64,
        "candidate_stage": "refused",
        "last_error": "version 4 is refused: too large",
        "failures": 3,
        "refused": 1,
        "last_swap": 0.0,
    }
    found = rows(refused)
    assert found["candidate"] == "version 4, bundle bbbbbbbbbbbb: refused"
    assert found["last error"] == "version 4 is refused: too large (3 in a row)"
    assert found["changes"] == "2 swaps; 1 versions refused"
    assert rows({**refused, "candidate_bundle": ""})["candidate"] == "version 4, bundle unknown: refused"


def test_a_service_that_follows_nothing_says_so() -> None:
    served = {**CHAMPION, "model_version": "", "share": 1.0}
    found = release_rows({"bundles": [served], "following": {}, "shadow": {}}, NOW)
    assert found["champion"].startswith("bundle aaaaaaaaaaaa, 100 % of the requests")
    assert found["follows"] == "nothing: what is served now is served for good"
    assert set(found) == {"champion", "follows"}


def test_live_items_are_told_with_the_bounds_of_writes() -> None:
    bounds = {"max_item_bytes": 65_536, "max_batch": 1000, "max_overlay": 100_000, "max_lag": 20_000}
    counts = {"live_items": 1234, "tombstones": 5, "sequence": 1300, "worker_sequence": 1299}
    catalogue = {**counts, "bounds": bounds, "last_error": ""}
    state = {"bundles": [CHAMPION], "following": {}, "shadow": {}, "catalogue": catalogue}
    found = release_rows(state, NOW)
    assert found["live items"] == (
        "1,234, and 5 deletes, of at most 100,000; the worker is at sequence 1299 of 1300"
    )
    assert found["writes"] == (
        "at most 1,000 items in a request, 64 KiB in an item, 20,000 changes not encoded yet"
    )
    assert "catalogue's error" not in found
    catalogue["last_error"] = "the disk is full"
    assert release_rows(state, NOW)["catalogue's error"] == "the disk is full"


def test_a_shadow_is_told_with_what_it_found() -> None:
    found = rows(FOLLOWING, SHADOW)
    assert found["shadow"] == "models:/tiny@challenger, version 4, bundle cccccccccccc"
    assert found["shadow's queries"] == "1,000, 1 with an error, 2 without an answer; 12 dropped"
    assert found["beside the champion"] == "overlap@10 0.875, score -0.0123"
    absent = {**SHADOW, "bundle_version": "", "queries": 0, "errors": 0, "last_error": "no such alias"}
    found = rows(FOLLOWING, absent)
    assert found["shadow"] == "models:/tiny@challenger, none"
    assert found["shadow's error"] == "no such alias"
    assert "beside the champion" not in found


def test_a_clock_that_was_set_back_gives_no_negative_age() -> None:
    assert ages(FOLLOWING, NOW - 5000) == {
        "last_check_seconds_ago": 0.0,
        "next_check_in_seconds": 5007.0,
        "last_swap_seconds_ago": 0.0,
    }
    never = {**FOLLOWING, "last_check": 0.0, "next_check": 0.0, "last_swap": 0.0}
    assert set(ages(never, NOW).values()) == {None}
    assert rows(never)["follows"] == "models:/tiny@champion, not checked yet"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (12_600, "3.5 h"), (259_200, "3 d")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


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
        heads = [line[:19].strip() for line in lines]
        assert heads == [
            *("name", "champion", "follows", "candidate", "last error", "changes", "shadow"),
            *("shadow's queries", "beside the champion", "workers", "uptime"),
        ]
        assert client_main(["info", "--address", server.address]) == 0
        assert "models:/tiny@champion, checked" in capsys.readouterr().out


def test_a_server_of_a_folder_has_a_status_too(capsys: Capture, retriever: Retriever) -> None:
    with RetrievalServer(retriever) as server:
        found = document(capsys, "status", "--address", server.address)
        assert (found["following"], found["shadow"]) == (None, None)
        assert json.dumps(found)


def test_without_a_server_the_command_fails(capsys: Capture) -> None:
    assert "127.0.0.1:1" in failure(capsys, "status", "--address", "127.0.0.1:1", "--timeout", "1")


def test_the_table_is_as_wide_as_it_may_be(plain: Path) -> None:
    output = io.StringIO()
    state = {
        **{"bundles": [CHAMPION], "following": FOLLOWING, "shadow": {}, "uptime_seconds": 7200.0},
        **{"workers": 2, "workers_up": 1, "restarts": 3},
    }
    tables.show_status(Console(file=output, width=120), "tiny", state)
    assert "1 of 2 up, 3 restarts" in output.getvalue()


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
    tables.show_scores(console, Scores(((CONTROLS, 1.0),), "cosine", "v1", Timing(0, 0, 0)))
    written = output.getvalue()
    assert not set(written) & {"\x1b", "\x07", "\x9b", "\x7f", "\t"}
    assert written.count(SHOWN) == 5


def test_an_answer_without_hits_fits_any_terminal() -> None:
    output = io.StringIO()
    tables.show_answer(Console(file=output, width=10), Answer((), "v1", Timing(0, 0, 0)))
    assert "bundle v1" in output.getvalue()
