"""The ten lines of the loop run, taken from export/retrain/README.md; then the files are searched.

The test makes a small shop and its clicks. It shortens the attribution window, a day, to some seconds, and
leaves `systemctl` out. Keys of users may be in the store of events alone, and in the file of clicks that the
test has written. The page asks for texts in the served log; texts that are sent to a service with its
defaults are in no file.
"""

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.helpers.ports import held_port
from tests.helpers.retraining import ALL, OLD, QUERIES, TITLES
from tests.helpers.waiting import wait_until
from tests.test_readmes import PLAIN_TABLES, blocks, commands, copy_checkout, run, server, warm
from twinspire.serving.client import Event, Query, RetrievalClient

PAGE = "export/retrain/README.md"
STORE = ".cache/live/events.db"
SEARCHES, BATCH, USERS = 3000, 100, 20
LOGGED = 200  # answers at least, of a tenth
WINDOW_SECONDS = 4
LESS = f"""
[export]
iterations = 50

[hybrid]
enabled = false

[baselines]
run = ["popularity"]

[training]
epochs = 8

{PLAIN_TABLES}"""  # so that it takes a minute

# It is quiet, because the attribution window is short.
pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet, pytest.mark.timeout(1200)]


def write_shop(folder: Path) -> None:
    """Tables and TOML of the shop, as README.md has them, and the TOML of the loop."""
    (shop,) = (each for each in blocks("toml", among=["README.md"]) if 'name = "shop"' in each.text)
    (loop,) = blocks("toml", among=[PAGE])
    (folder / "shop.toml").write_text(shop.text + LESS)
    text = loop.text.replace('log = "served"\n', 'log = "served"\nwindow_hours = 0.001\n')
    assert text != loop.text
    (folder / "loop.toml").write_text(text + LESS)
    draw = np.random.default_rng(0)
    items = [f"i{n},{title},{n + 0.5}" for n, title in enumerate(TITLES)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,price", *items]) + "\n")
    asked = draw.integers(0, OLD, 600)
    clicks = [f"{QUERIES[n]},i{n},{1_700_000_000 + at}" for at, n in enumerate(asked)]
    (folder / "clicks.csv").write_text("\n".join(["query,item_id,time", *clicks]) + "\n")


def visit(client: RetrievalClient, keys: list[str]) -> tuple[list[Event], dict[str, list[str]]]:
    """Clicks on what was asked for, where it was shown; and the request ids of each user."""
    draw = np.random.default_rng(1)
    clicks, requests = list[Event](), dict[str, list[str]]()
    for _ in range(SEARCHES // BATCH):
        asked = draw.integers(0, ALL, BATCH).tolist()
        users = [keys[n] for n in draw.integers(0, USERS, BATCH)]
        queries = [Query(QUERIES[item], user=user) for item, user in zip(asked, users, strict=True)]
        for answer, item, user in zip(client.search_batch(queries, k=30), asked, users, strict=True):
            requests.setdefault(user, []).append(answer.request_id)
            clicks += [
                Event(user, hit.id, "click", time=time.time(), request_id=answer.request_id, position=place)
                for place, hit in enumerate(answer.hits, 1)
                if hit.id == f"i{item}"
            ]
    return clicks, requests


def holders(folder: Path, text: str) -> set[str]:
    """The files in which a text is found; those of Parquet are decoded."""

    def content(path: Path) -> bytes:
        if path.suffix == ".parquet":
            return pl.read_parquet(path).write_ndjson().encode()
        return path.read_bytes()

    def files() -> Iterator[Path]:
        return (path for path in folder.rglob("*") if path.is_file() and ".venv" not in path.parts)

    return {str(path.relative_to(folder)) for path in files() if text.encode() in content(path)}


def rows(log: Path, request_ids: list[str]) -> int:
    """Answers in a served log with one of these ids."""
    parts = (pl.read_parquet(path, columns=["request_id"])["request_id"] for path in log.glob("*/*.parquet"))
    return sum(int(part.is_in(request_ids).sum()) for part in parts)


def test_the_loop_runs_and_keeps_keys_and_texts_to_itself(tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    write_shop(tmp_path)
    (block,) = (each for each in blocks("text", among=[PAGE]) if each.text.startswith("make demo"))
    lines = commands(block)
    assert len(lines) == 10 and lines.pop().startswith("systemctl enable")
    keys = [f"key-{secrets.token_hex(8)}" for _ in range(USERS)]
    said: list[str] = []

    with warm(tmp_path / ".venv"), held_port() as port:

        def do(line: str) -> str:
            line = re.sub("^python ", ".venv/bin/python ", line)
            if " twinspire.serving " in line:
                line += f" --address 127.0.0.1:{port}"
            said.append(run(tmp_path, line, port))
            return said[-1]

        demo, serve, search, record, *others = lines
        assert 'FLAGS="' in serve
        serve = serve.replace('FLAGS="', 'FLAGS="--served-log-flush-seconds 1 ')
        do(demo)
        with server(tmp_path, serve, port), RetrievalClient(f"127.0.0.1:{port}") as client:
            do(search)
            clicks, requests = visit(client, keys)
            with (tmp_path / "clicks.jsonl").open("w") as file:
                for each in clicks:
                    known = {name: value for name, value in asdict(each).items() if value is not None}
                    file.write(json.dumps(known) + "\n")
            time.sleep(WINDOW_SECONDS)
            do(record)
            first = client.info().bundle_version
            wait_until(lambda: client.info().state["served_log"]["rows"] > LOGGED, 90)
            data, _, retrained, again, history = map(do, others)
            assert "weights: " in data
            assert (tmp_path / "tables" / "pairs.parquet").exists()
            assert "nothing to do: these data were trained on before" in again
            if "is champion" in retrained:
                wait_until(lambda: client.info().bundle_version != first, 90)
                assert "promote" in history
            else:
                assert "stays champion" in retrained
                assert "refuse" in history
    flags = "--events --served-log quiet --served-log-share 1 --served-log-flush-seconds 1"
    quiet = f"make serve CONFIG=shop.toml FLAGS='{flags}'"
    text = f"text {secrets.token_hex(8)}"
    with (  # the service of before may still be ending on the other port
        held_port() as port,
        server(tmp_path, quiet, port),
        RetrievalClient(f"127.0.0.1:{port}") as client,
    ):
        answer = client.search(Query(text, user=keys[0]), k=5)
        client.record([Event(keys[0], answer.hits[0].id, "click", request_id=answer.request_id)])
        wait_until(lambda: client.info().state["served_log"]["rows"] == 1)
    assert rows(tmp_path / "quiet", [answer.request_id]) == 1
    assert holders(tmp_path, text) == set()
    for key in keys:
        assert holders(tmp_path, key) <= {"clicks.jsonl", STORE, f"{STORE}-wal", f"{STORE}-shm"}
        assert key not in "".join(said)
    delete_user(tmp_path, keys[0], keys[1], requests, answer.request_id)


def delete_user(
    folder: Path, gone: str, stays: str, requests: Mapping[str, list[str]], in_quiet: str
) -> None:
    """Delete a user from the store of events and both served logs; no row of it is left."""
    assert rows(folder / "served", requests[gone]) > 0
    delete = f".venv/bin/python -m twinspire.serving.events delete {gone} --served-log"
    found = json.loads(run(folder, f"{delete} served", 0))
    assert found["log_emptied"] and found["events_deleted"] > 0 and found["answers_deleted"] > 0
    assert json.loads(run(folder, f"{delete} quiet", 0))["answers_deleted"] == 1
    assert rows(folder / "served", requests[gone]) == rows(folder / "quiet", [in_quiet]) == 0
    assert rows(folder / "served", requests[stays]) > 0
    assert holders(folder, gone) == {"clicks.jsonl"}
    with closing(sqlite3.connect(folder / STORE)) as store:
        users = {user for (user,) in store.execute("SELECT DISTINCT user_key FROM twinspire_events")}
    assert stays in users and gone not in users
