"""The command line: results on stdout, the rest on stderr, 0 or 1 or 2."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import ROOT, Start
from twinspire.serving.__main__ import main
from twinspire.serving.client.security import TOKEN
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

Capture = pytest.CaptureFixture[str]
Main = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def address(full_retriever: Retriever) -> Iterator[str]:
    """Of a server on the full bundle."""
    with RetrievalServer(full_retriever) as server:
        yield server.address


@pytest.fixture(scope="module")
def watched_address(watched: Path) -> Iterator[str]:
    """Of a server on the bundle whose queries are histories."""
    with RetrievalServer(Retriever.load(watched)) as server:
        yield server.address


GERMAN = '{"features": {"country": "de"}}'


def document(capsys: Capture, *arguments: str, main: Main = main) -> Any:
    assert main([*arguments, "--json"]) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    return json.loads(output)


def failure(capsys: Capture, *arguments: str, main: Main = main) -> str:
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def misuse(capsys: Capture, *arguments: str, main: Main = main) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_search_prints_a_table(capsys: Capture, address: str) -> None:
    assert main(["search", "bavuti xelike mopy", "--k", "2", "--address", address]) == 0
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "score", "name", "section", "id"]
    assert first.split() == "1 0.9092 pylixe ketixe momovu section 3 item-063".split()
    assert second.split() == ["2", "0.8981", "vutiti", "moxepy", "livuba", "item-280"]
    assert last.startswith("bundle ")
    assert "encode" in last


def test_search_prints_one_document(capsys: Capture, address: str, full_retriever: Retriever) -> None:
    found = document(capsys, "search", "bavuti xelike mopy", "--k", "1", "--address", address)
    (hit,) = found["hits"]
    assert (hit["rank"], hit["id"]) == (1, "item-063")
    assert hit["fields"] == {"name": "pylixe ketixe momovu", "section": "section 3"}
    assert found["bundle_version"] == full_retriever.manifest.bundle_version
    assert {"queue_us", "encode_us", "search_us"} <= found.keys()


def test_search_takes_features_items_and_exclusions(capsys: Capture, address: str) -> None:
    query = {"features": {"age": 31, "tags": ["new", "old"], "country": "de"}}
    flags = ("--query", json.dumps(query))
    found = document(capsys, "search", "ba", *flags, "--k", "3", "--address", address)
    plain = document(capsys, "search", "ba", "--k", "3", "--address", address)
    assert [hit["score"] for hit in found["hits"]] != [hit["score"] for hit in plain["hits"]]
    like = document(capsys, "search", "--item-id", "item-007", "--k", "3", "--address", address)
    ids = [hit["id"] for hit in like["hits"]]
    assert "item-007" not in ids
    rest = document(capsys, "search", "--item-id", "item-007", "--exclude", *ids[:2], "--address", address)
    assert not {*ids[:2]} & {hit["id"] for hit in rest["hits"]}
    assert rest["hits"][0]["score"] == pytest.approx(
        like["hits"][2]["score"], abs=1e-5
    )  # two items tie for this place


def test_search_takes_histories(capsys: Capture, watched_address: str) -> None:
    search = ("search", "--k", "4", "--address", watched_address)
    found = document(capsys, *search, "--history", "item-001", "item-002", "item-003")
    assert (found["basis"], found["unknown_history"]) == ("query", 0)
    again = document(capsys, *search, "--history", "item-001", "item-002", "--history=item-003")
    assert again["hits"] == found["hits"]
    query = {"features": {"history": ["item-001", "item-002", "item-003"]}}
    assert document(capsys, *search, "--query", json.dumps(query))["hits"] == found["hits"]
    assert found["hits"][0]["id"] == "item-003"
    flags = ("--history", "item-001", "item-002", "item-003", "a,b", "--exclude-history")
    left = document(capsys, *search, *flags, "--exclude", found["hits"][1]["id"], "--exclude", "x")
    assert not {"item-003", found["hits"][1]["id"]} & {hit["id"] for hit in left["hits"]}
    assert left["unknown_history"] == 1


def test_search_says_what_an_answer_rests_on(capsys: Capture, watched_address: str) -> None:
    def lines(*flags: str) -> list[str]:
        assert main(["search", "--k", "1", *flags, "--address", watched_address]) == 0
        return capsys.readouterr().out.splitlines()

    assert len(lines("--history", "item-001")) == 3
    head, first, *remarks, _ = lines("--history", "item-010", "x")
    assert (head.split()[1], first.split()[1]) == ("share", "0.67%")
    assert remarks == [
        "nothing known in the query: these are the most popular items, with their share of all interactions",
        "2 items of the history skipped: unknown to the query tower",
    ]
    head, _, *remarks, _ = lines("--history", "x", "--query", GERMAN)
    assert head.split()[1] == "score"
    assert remarks == [
        "no known item in the history: the answer is based on other features or the time",
        "1 item of the history skipped: unknown to the query tower",
    ]
    assert len(lines()) == 4


def test_a_refused_query_is_a_failure(capsys: Capture, address: str) -> None:
    here = ("--address", address)
    assert "query.text: required" in failure(capsys, "search", *here)
    assert "query.item_id: the catalogue" in failure(capsys, "search", "--item-id", "x", *here)
    assert "query.history: " in failure(capsys, "search", "a", *here, "--history", "item-001")
    for features, expected in (
        ({"age": "old"}, "query.features.age: expected a number"),
        ({"colour": "red"}, "query.features.colour: unknown"),
    ):
        flags = ("--query", json.dumps({"features": features}))
        assert expected in failure(capsys, "search", "a", *flags, *here)


def test_info(capsys: Capture, address: str) -> None:
    about = document(capsys, "info", "--address", address)
    assert (about["name"], about["item_count"], about["limits"]["max_k"]) == ("tiny", 300, 1000)
    assert main(["info", "--address", address]) == 0
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert "query_features.text" in rows
    assert rows["limits.max_hits"].strip() == "16,384"
    assert rows["state.workers"].strip() == "1"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["search", "a", "--k", "-1"], "argument --k: expected a whole number"),
        (["search", "a", "--query", "age"], "--query: Expecting value"),
        (["search", "a", "--query", '{"texts": "a"}'], "--query: texts: unknown column; a query has text"),
        (["search", "a", "--timeout", "0"], "expected seconds, above 0"),
        (["serve", "--port", "65536"], "expected a whole number from 0 to 65535"),
        (["serve", "--bundle", "a", "--model", "b"], "not allowed with argument"),
        (["serve", "--tls-key", "key.pem"], "--tls-certificate and --tls-key go together"),
        (["serve", "--client-ca", "ca.pem"], "--client-ca goes with --tls-certificate"),
        (["serve", "--burst", "5"], "--burst goes with --rate"),
        (["serve", "--burst", "5", "--rate", "0"], "--burst goes with --rate"),
        (["serve", "--metrics-host", "127.0.0.2"], "--metrics-host goes with --metrics-port"),
        (["serve", "--trace-ratio", "1"], "--trace-ratio goes with --trace-endpoint"),
        (["serve", "--poll", "5"], "--poll goes with an alias"),
        (["serve", "--canary", "models:/a@b"], "--canary goes with an alias"),
        (["serve", "--model", "models:/a@b", "--shadow-share", ".5"], "--shadow-share goes with --shadow"),
        (["serve", "--model", "models:/a@b", "--interleave-share", "1"], "-share goes with --canary"),
        (["serve", "--rate", "-1"], "expected a number from 0 to 1e+09, got '-1'"),
        (["serve", "--workers", "0"], "expected a whole number from 1"),
        (["token"], "the following arguments are required: --name"),
        (["serve", "--max-k", "5"], "default_k: expected at most max_k = 5, got 10"),
        (["serve", "--worker-timeout", "-1"], "expected seconds, 0 or from 1 to 3600, got '-1'"),
    ],
)
def test_misuse_is_told_apart(capsys: Capture, arguments: list[str], expected: str) -> None:
    assert expected in misuse(capsys, *arguments)


def test_serve_says_where_in_one_document(start_server: Start, plain: Path) -> None:
    process, address = start_server("--json", "--max-k", "7", "--default-k", "3")
    done = subprocess.run(
        [sys.executable, "-m", "twinspire.serving", "search", "a", "--json", "--address", address],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["hits"]) == 3
    process.send_signal(signal.SIGTERM)
    output, log = process.communicate(timeout=10)
    served = json.loads(output)
    assert served["address"] == address
    assert served["bundle_version"].startswith(plain.name)
    assert f"at {address}" in log


def test_serve_is_not_open_to_strangers(capsys: Capture, plain: Path) -> None:
    refused = failure(capsys, "serve", "--bundle", str(plain), "--host", "0.0.0.0", "--port", "0")
    assert "0.0.0.0" in refused
    assert "--insecure" in refused


def test_a_token_is_told_once_with_what_the_file_must_say(capsys: Capture) -> None:
    made = document(capsys, "token", "--name", "search-frontend", "--role", "writer")
    assert hashlib.sha256(made["token"].encode()).hexdigest() in made["entry"]
    assert 'role = "writer"' in made["entry"]
    assert main(["token", "--name", "search-frontend"]) == 0
    secret, told = capsys.readouterr()
    assert TOKEN.fullmatch(secret.removesuffix("\n"))  # alone, so that `> FILE` makes a token file
    assert "[[token]]" in told
    assert hashlib.sha256(secret.strip().encode()).hexdigest() in told
    assert secret.strip() not in told


@pytest.fixture
def signals() -> Iterator[None]:
    """Put this process's handlers back that `serve` replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_serve_refuses_what_it_cannot_serve(capsys: Capture, tmp_path: Path, plain: Path) -> None:
    assert "holds no bundle" in failure(capsys, "serve", "--bundle", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        flags = ("--bundle", str(plain), "--port", str(port))
        assert f"127.0.0.1:{port}: cannot listen" in failure(capsys, "serve", *flags)
        other = ("--bundle", str(plain), "--port", "0", "--metrics-port", str(port))
        refused = failure(capsys, "serve", *other)
    assert refused.startswith(f"error: 127.0.0.1:{port}: cannot listen there: ")
    assert "; does another service serve metrics there? " in refused
    assert "--metrics-port 0 takes any free port (make serve METRICS_PORT=0)" in refused
