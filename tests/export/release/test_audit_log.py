"""The audit log: numbered records, what is missing among them, and where a rollback goes."""

import json
from typing import Any

import mlflow
import pytest

from twinspire.export.release import audit_log
from twinspire.export.release.audit_log import AuditLog, Entry
from twinspire.export.release.release_records import REASON_LENGTH, RECORD_TAG, RELEASE, Action, ReleaseRecord
from twinspire.protos.errors import InvalidInput
from twinspire.protos.mlflow_keys import STAGE
from twinspire.train.training.tracking import experiment_id


@pytest.fixture
def name(store: str) -> str:
    mlflow.MlflowClient().create_registered_model("a")
    return "a"


def written(name: str, action: Action, before: str, after: str, **others: Any) -> str:
    """Append a record in a run of its own, which ends; gives the run's id."""
    client = mlflow.MlflowClient()
    run_id: str = client.create_run(experiment_id(name), tags={STAGE: RELEASE}).info.run_id
    audit_log.append(name, run_id, action, before, after, **others)
    client.set_terminated(run_id)
    return run_id


def test_records_are_numbered(name: str) -> None:
    gate = {"name": "quality", "figure": float("nan"), "bound": -0.01, "holds": False}
    written(name, "promote", "", "1")
    written(name, "refuse", "1", "2", gates=[gate], reason="größer als ø|[b]")
    written(name, "rollback", "1", "2", reason="x" * 5000)
    found = audit_log.read(name)
    records = [entry.record for entry in found.entries]
    assert [record.number for record in records] == [1, 2, 3]
    assert records[1].gates == ({**gate, "figure": None},)
    assert records[1].reason == "größer als ø|[b]"
    assert len(records[2].reason) == REASON_LENGTH
    assert all(record.actor == audit_log.actor() and record.at.endswith("+00:00") for record in records)
    assert audit_log.problems(found) == []


def test_a_record_that_does_not_fit_into_a_tag_is_refused(name: str) -> None:
    written(name, "promote", "", "1")
    gate = {"name": "g" * 3000, "figure": 0.0, "bound": 0.0, "holds": True}
    with pytest.raises(
        InvalidInput, match=r"expected at most 8,000 characters of JSON, got 9,\d{3}; shorten"
    ):
        written(name, "promote", "1", "2", gates=[gate], reason="\x01" * 1000)
    assert [entry.record.number for entry in audit_log.read(name).entries] == [1]
    assert audit_log.problems(audit_log.read(name)) == []
    written(name, "promote", "1", "2", gates=[gate], reason="\x01")
    assert audit_log.problems(audit_log.read(name)) == []


@pytest.mark.parametrize(
    ("gone", "problem"),
    [((1,), "record 1: missing"), ((2, 3), "records 2 to 3: missing")],
)
def test_records_that_are_gone_show(name: str, gone: tuple[int, ...], problem: str) -> None:
    runs = [written(name, "promote", str(n - 1 or ""), str(n)) for n in (1, 2, 3, 4)]
    for number in gone:
        mlflow.MlflowClient().delete_tag(runs[number - 1], RECORD_TAG)
    assert audit_log.problems(audit_log.read(name)) == [problem]


def test_a_deleted_run_shows_and_the_numbers_go_on(name: str) -> None:
    first = written(name, "promote", "", "1")
    mlflow.MlflowClient().delete_run(first)
    written(name, "promote", "1", "2")
    found = audit_log.read(name)
    assert [entry.record.number for entry in found.entries] == [1, 2]
    assert audit_log.problems(found) == [f"record 1: its run {first} was deleted"]


def test_a_record_that_is_none_shows(name: str) -> None:
    written(name, "promote", "", "1")
    second = written(name, "promote", "1", "2")
    client = mlflow.MlflowClient()
    for text in ("nonsense", "[]", json.dumps({"number": 2}), '{"number": "2"}'):
        client.set_tag(second, RECORD_TAG, text)
        assert audit_log.problems(audit_log.read(name)) == [f"run {second}: its record cannot be read"]


def test_two_hosts_may_give_one_number(name: str) -> None:
    first = written(name, "promote", "", "1")
    second = written(name, "promote", "1", "2")
    client = mlflow.MlflowClient()
    client.set_tag(second, RECORD_TAG, client.get_run(first).data.tags[RECORD_TAG])
    assert audit_log.problems(audit_log.read(name)) == []


def test_records_of_earlier_versions_are_read(name: str) -> None:
    """They hold the sha256 of the record before, and the locks that were broken."""
    run_id = written(name, "promote", "", "1")
    client = mlflow.MlflowClient()
    record = json.loads(client.get_run(run_id).data.tags[RECORD_TAG])
    client.set_tag(run_id, RECORD_TAG, json.dumps(record | {"previous": "0" * 64, "broke": ["ann@one"]}))
    found = audit_log.read(name)
    assert (found.entries[0].record.after, found.unreadable) == ("1", ())


def log_of(*moves: tuple[Action, str, str] | tuple[Action, str, str, str]) -> AuditLog:
    """An audit log of moves: action, from, to, and the status of the run if it is not finished."""
    entries = [
        Entry(ReleaseRecord(n, "", "", move[0], move[1], move[2]), "", (*move, "FINISHED")[3], False)
        for n, move in enumerate(moves, 1)
    ]
    return AuditLog(tuple(entries), ())


@pytest.mark.parametrize(
    ("moves", "champion", "expected"),
    [
        ([], "1", ["1"]),
        ([("promote", "", "1"), ("promote", "1", "2")], "2", ["1", "2"]),
        ([("promote", "", "1"), ("force", "1", "2"), ("rollback", "2", "1")], "1", ["1"]),
        # back and forth: each promotion stands by itself
        ([("promote", "", "1"), ("promote", "1", "2"), ("promote", "2", "1")], "1", ["1", "2", "1"]),
        # to a version that does not stand
        ([("promote", "", "1"), ("promote", "1", "3"), ("rollback", "3", "2")], "2", ["1", "2"]),
        # the alias was moved without a record: before the first, between two, after the last
        ([("promote", "7", "8")], "8", ["7", "8"]),
        ([("promote", "", "1"), ("promote", "5", "6")], "6", ["1", "5", "6"]),
        ([("promote", "", "1"), ("promote", "1", "2")], "1", ["1"]),
        # a process died: before the alias moved, or after
        ([("promote", "", "1"), ("promote", "1", "2", "RUNNING")], "1", ["1"]),
        ([("promote", "", "1"), ("promote", "1", "2", "RUNNING")], "2", ["1", "2"]),
        ([("promote", "", "1"), ("promote", "1", "2", "FAILED"), ("promote", "1", "3")], "3", ["1", "3"]),
        # the champion's version was deleted, and its alias with it
        ([("promote", "", "1"), ("promote", "1", "2")], "", ["1", "2"]),
    ],
)
def test_what_stands_is_what_was_promoted_and_not_taken_back(
    moves: list[Any], champion: str, expected: list[str]
) -> None:
    assert audit_log.promoted_versions(log_of(*moves), champion) == expected
