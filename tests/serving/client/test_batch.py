"""A file of queries in, a file of answers out, whole or not at all; and the command line around it."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.refusing import Refusing, serving
from tests.helpers.tiny import item_names
from tests.serving.cli.test_commands import Capture, document, failure, misuse
from tests.serving.conftest import ROOT
from twinspire.protos.errors import DataError, DeadlineExceeded, InvalidInput
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.__main__ import main
from twinspire.serving.client.batch import search_file
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

READ = 40_000  # lines of 1 kB


@pytest.fixture(scope="module")
def address(full_retriever: Retriever) -> Iterator[str]:
    """Of a server on the full bundle."""
    with RetrievalServer(full_retriever) as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[RetrievalClient]:
    with RetrievalClient(address) as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "queries.txt"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def documents(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_are_answered_in_order(client: RetrievalClient, source: Path, output: Path) -> None:
    names = item_names(300)
    source.write_text("\ufeff" + "\n\n".join(names) + "\r\n", encoding="utf-8")
    seen: list[int] = []
    done = search_file(client, source, output, k=1, tick=seen.append)
    found = documents(output)
    assert done == len(found) == 300
    assert [each["line"] for each in found] == [*range(1, 600, 2)]
    assert seen == [*range(1, 301)]
    expected = [*client.search_batch(names[:150], k=1), *client.search_batch(names[150:], k=1)]
    assert [each["hits"] for each in found] == [
        [{"rank": 1, "id": hit.id, "score": pytest.approx(hit.score), "fields": dict(hit.fields)}]
        for (hit,) in (answer.hits for answer in expected)
    ]


def test_json_holds_all_that_a_query_can(client: RetrievalClient, tmp_path: Path, output: Path) -> None:
    queries = [
        Query("ba", features={"age": 31.0, "country": "de", "tags": ("new", "old")}),
        Query(item_id="item-007"),
        Query("日本"),
    ]
    lines = [
        {"text": "ba", "features": {"age": 31, "country": "de", "tags": ["new", "old"]}},
        {"item_id": "item-007", "text": None, "history": []},
        {"text": "日本"},
    ]
    source = tmp_path / "queries.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    search_file(client, source, output, k=4, exclude=["item-001"])
    expected = [client.search(query, 4, exclude=["item-001"]) for query in queries]
    found = documents(output)
    assert [[hit["id"] for hit in each["hits"]] for each in found] == [
        [hit.id for hit in answer.hits] for answer in expected
    ]
    assert {"basis", "unknown_history", "bundle_version", "queue_us"} <= found[0].keys()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"\xff", "'utf-8' codec"),
        (b"{", "Expecting property name"),
        (b"[1]", "expected a JSON object, got [1]"),
        (b'{"txet": "a"}', "txet: unknown column; a query has text, history"),
        (b'{"text": 1}', "text: expected a str, got 1"),
        (b'{"history": "a"}', "history: expected a list, got 'a'"),
        (b'{"history": [1]}', "history"),
        (b'{"features": ["a"]}', "features: expected a dict, got ['a']"),
        (b'{"features": {"age": true}}', "features.age: expected a string, a number or"),
        (b'{"features": {"age": NaN}}', "NaN is no number of JSON"),
        (b'{"text": "a", "features": {"age": 1e999}}', "query.features.age: expected a"),
        (b'{"features": {"age": 1' + b"0" * 400 + b"}}", "features: expected a number that a"),
        (b"[" * 100_000, "nested more than 64 levels deep"),
        (b'{"text": "\\ud800"}', "query: expected Unicode, got a lone surrogate"),
        (b'{"text": "a", "features": {"colour": "red"}}', "query.features.colour: unknown feature"),
        (b'{"item_id": "x"}', "query.item_id: the catalogue holds no item 'x'"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_bad_line_is_named_and_nothing_is_written(
    client: RetrievalClient, tmp_path: Path, output: Path, line: bytes, expected: str
) -> None:
    source = tmp_path / "queries.ndjson"
    source.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    output.write_text("of old")
    with pytest.raises(DataError) as caught:
        search_file(client, source, output)
    assert str(caught.value).startswith(f"{source}: row 3: ")
    assert expected in str(caught.value)
    assert output.read_text() == "of old"
    assert sorted(tmp_path.iterdir()) == [output, source]


def test_an_error_that_is_no_lines_is_none_of_them(
    client: RetrievalClient, source: Path, output: Path
) -> None:
    source.write_text("a\n")
    with pytest.raises(InvalidInput, match=r"^k: expected at most 1000"):
        search_file(client, source, output, k=1001)
    assert not output.exists()


def test_a_file_that_cannot_be_used_is_named(client: RetrievalClient, source: Path, output: Path) -> None:
    with pytest.raises(DataError, match=r"queries\.txt: cannot be read: No such file"):
        search_file(client, source, output)
    source.write_text("a\n")
    with pytest.raises(DataError, match=r"missing/answers: cannot be written: No such file"):
        search_file(client, source, output.parent / "missing" / "answers")


def test_reading_stays_close_to_answering(source: Path, output: Path) -> None:
    """The server stops at a line, and with it the reader, long before the end of the file."""
    os.mkfifo(source)
    written = 0

    def write() -> None:
        nonlocal written
        with contextlib.suppress(BrokenPipeError), source.open("wb", buffering=0) as file:
            for line in [b"wait\n", *[b"a" * 1000 + b"\n"] * READ]:
                file.write(line)
                written += 1

    writer = threading.Thread(target=write)
    writer.start()
    with serving(Refusing()) as address, RetrievalClient(address) as client:
        with pytest.raises(DeadlineExceeded):
            search_file(client, source, output, timeout=1)
        writer.join(5)
    assert written < READ / 2  # the pipe and the connection hold some, too
    assert not output.exists()


def test_an_empty_file_has_no_answers(client: RetrievalClient, source: Path, output: Path) -> None:
    source.write_text("\n \n")
    assert search_file(client, source, output) == 0
    assert output.read_text() == ""


def test_batch_writes_answers_and_prints_a_summary(
    capsys: Capture, address: str, source: Path, output: Path
) -> None:
    source.write_text("a\nb\n")
    flags = ("batch", str(source), "--output", str(output), "--address", address)
    found = document(capsys, *flags, "--k", "2", main=main)
    assert (found["queries"], found["output"]) == (2, str(output))
    assert [len(each["hits"]) for each in documents(output)] == [2, 2]
    assert main([*flags]) == 0
    captured = capsys.readouterr()
    assert "queries_per_s" in captured.out
    assert "batch" in captured.err  # the progress bar


def test_batch_takes_a_pipe(address: str, output: Path) -> None:
    flags = ["batch", "/dev/stdin", "--output", str(output), "--address", address]
    command = [sys.executable, "-m", "twinspire.serving.client", *flags]
    done = subprocess.run(command, input="a\n", capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(documents(output)) == 1


def test_the_client_has_the_servers_commands(capsys: Capture, address: str) -> None:
    found = document(capsys, "search", "bavuti xelike mopy", "--k", "1", "--address", address, main=main)
    assert found["hits"][0]["id"] == "item-063"
    assert main(["info", "--address", address]) == 0
    assert "tiny" in capsys.readouterr().out
    refused = failure(capsys, "info", "--address", "127.0.0.1:1", main=main)
    assert refused.startswith("error: 127.0.0.1:1: ")


def test_a_token_comes_from_a_file_or_the_environment(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    with serving(asked := Refusing()) as address:
        monkeypatch.setenv("TWINSPIRE_TOKEN", "from-environment")
        assert main(["search", "a", "--address", address]) == 0
        assert main(["search", "a", "--address", address, "--token-file", str(file)]) == 0
        monkeypatch.setenv("TWINSPIRE_TOKEN", "")
        assert main(["search", "a", "--address", address]) == 0
    sent = [metadata.get("authorization") for metadata in asked.metadata]
    assert sent == ["Bearer from-environment", "Bearer from-file", None]
    capsys.readouterr()
    file.write_text(" \n")
    for given, text in ((file, "expected a token, found none\n"), (tmp_path / "missing", "cannot be read")):
        refused = failure(capsys, "search", "a", "--token-file", str(given), main=main)
        assert refused.startswith(f"error: {given}: {text}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["batch", "a"], "the following arguments are required: --output"),
        (["batch", "a", "--output", "/"], "expected a file in a folder"),
        (["batch", __file__, "--output", __file__], "--output: is the file of queries itself"),
        (["info", "--certificate", "a"], "expected a certificate and its key, or neither"),
        (["info", "--server-name", "a"], "means nothing without TLS"),
        (["info", "--address", "example.org:1"], "would go to example.org:1 in the clear; use TLS"),
        (["info", "--token", "secret"], "--token: no such option; did you mean --token-file?"),
    ],
)
def test_misuse_is_told_apart(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.setenv("TWINSPIRE_TOKEN", "secret")
    assert expected in misuse(capsys, *arguments, main=main)


def test_the_client_needs_neither_towers_nor_platform() -> None:
    forbidden = ("torch", "mlflow", "polars", "pandas", "train", "export", "onnxruntime", "hnswlib")
    code = (
        "import sys\n"
        f"for name in {forbidden}: sys.modules[name] = None\n"
        "import twinspire.serving.client.__main__\n"
        "print({'opentelemetry', 'sqlalchemy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr
