"""The audit log, where a rollback goes, and a challenger against the last ten champions on record."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from tests.helpers import altered, releases
from tests.helpers.stdlib import Made
from twinspire.export.evaluation import per_query
from twinspire.export.release import audit_log
from twinspire.export.release import promote as release
from twinspire.export.release.audit_log import (
    RECORD_TAG,
    RELEASE,
    Action,
    AuditLog,
    Entry,
    ReleaseRecord,
    parse_record,
)
from twinspire.export.release.gates import GATES
from twinspire.export.release.gates.quality_history import CHAMPIONS, NAME, differences
from twinspire.export.release.promote import compare_versions
from twinspire.protos.errors import InvalidInput
from twinspire.protos.mlflow_keys import REASON_LENGTH, STAGE
from twinspire.train.evaluation.intervals import Clusters
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


def log_of(*moves: Sequence[Any]) -> AuditLog:
    """An audit log of moves: action, from, to, and the recorded differences, or the status of the run."""
    entries = []
    for n, (action, before, after, *more) in enumerate(moves, 1):
        status, change = (*more, {}) if more and isinstance(more[0], str) else ("FINISHED", *more, {})[:2]
        gates: tuple[dict[str, Any], ...] = ({"name": NAME, "change": dict(change)},) if change else ()
        entries.append(Entry(ReleaseRecord(n, "", "", action, before, after, gates), "", status, False))
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


METRIC = "recall_at_10"
Move = tuple[Action, str, str, Mapping[str, float]]


def moved(*changes: float, first: int = 2) -> list[Move]:
    """Promotions, each of the version after the last."""
    return [("promote", str(n - 1), str(n), {METRIC: change}) for n, change in enumerate(changes, first)]


FIRST: Move = ("promote", "", "1", {})


@pytest.mark.parametrize(
    ("moves", "champion", "expected", "end"),
    [
        ([FIRST], "1", {}, ""),
        ([FIRST, *moved(-0.008, -0.009)], "3", {"2": -0.009, "1": -0.017}, ""),
        # a version that was rolled back is none of them, and a refusal changes nothing
        (
            [FIRST, *moved(-0.5), ("rollback", "2", "1", {}), ("promote", "1", "3", {METRIC: 0.01})],
            "3",
            {"1": 0.01},
            "",
        ),
        ([FIRST, *moved(-0.008), ("refuse", "2", "3", {METRIC: -0.9})], "2", {"1": -0.008}, ""),
        # the sum ends at a forced promotion, and where a record has no difference by this metric
        (
            [FIRST, *moved(0.1), ("force", "2", "3", {METRIC: -0.2}), *moved(0.001, first=4)],
            "4",
            {"3": 0.001},
            "; version 3 was promoted by force, and none before it is compared",
        ),
        # version 3 has been champion before
        (
            [FIRST, *moved(0.1, 0.02, -0.03), ("promote", "4", "3", {METRIC: 0.03})],
            "3",
            {"4": 0.03, "2": 0.02, "1": 0.12},
            "",
        ),
        # the alias was moved to version 5 without a record
        (
            [FIRST, ("promote", "5", "6", {METRIC: 0.001})],
            "6",
            {"5": 0.001},
            "; the records hold no recall@10 of version 5 against version 1, "
            "and none before version 5 is compared",
        ),
    ],
)
def test_the_differences_of_champions_are_summed(
    moves: list[Move], champion: str, expected: dict[str, float], end: str
) -> None:
    found, why = differences(log_of(*moves), champion, METRIC)
    assert found == pytest.approx(expected)
    assert why == end


def test_the_last_ten_champions_count() -> None:
    found, why = differences(log_of(FIRST, *moved(*[-0.001] * 14)), "15", METRIC)
    assert [*found] == [str(n) for n in range(14, 14 - CHAMPIONS + 1, -1)]
    assert why == ""


def worse(folder: Path, parent: Path, lost: int) -> Path:
    """A copy of a bundle whose answers to `lost` more queries are wrong, each query a cluster of its own."""

    def change(draft: Path) -> None:
        found = per_query.load(folder)
        assert found is not None
        values = found.metrics[METRIC].copy()
        values[np.flatnonzero(values == 1)[:lost]] = 0
        metrics = {**found.metrics, METRIC: values}
        singly = Clusters.single(len(values))
        per_query.save(dataclasses.replace(found, metrics=metrics, clusters=singly), draft)

    return altered.altered(folder, parent, change)


def test_losses_that_each_keep_the_margin_are_refused_together(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each version answers one more query wrongly; the sixth is refused for its loss to the first."""
    found = per_query.load(made.folder)
    assert found is not None
    loss = 1 / len(found.rows)
    margin = dataclasses.replace(made.experiment.gates, quality_margin=4.5 * loss)
    experiment = dataclasses.replace(made.experiment, gates=margin)
    log = AuditLog((Entry(ReleaseRecord(1, "", "", "promote", "", "1"), "", "FINISHED", False),), ())
    monkeypatch.setattr(audit_log, "read", lambda _: log)
    gates = {name: GATES[name] for name in ("quality", NAME)}
    folder, results = worse(made.folder, tmp_path, 0), []
    for n in range(2, 7):
        champion = altered.side(str(n - 1), folder)
        folder = worse(folder, tmp_path, 1)
        decision = compare_versions(
            altered.side(str(n), folder), champion, experiment, releases.no_data, gates
        )
        assert {each.name for each in decision.refused} == ({NAME} if n == 6 else set())
        results.append(next(each for each in decision.results if each.name == NAME))
        summary = tuple(release.summary(each) for each in decision.results)
        record = ReleaseRecord(n, "", "", "promote", champion.version, str(n), summary)
        entry = Entry(parse_record(json.dumps(dataclasses.asdict(record))), "", "FINISHED", False)
        log = dataclasses.replace(log, entries=(*log.entries, entry))
    assert results[0].text == "no champion before version 1 to compare with"
    assert [each.figure for each in results[1:]] == pytest.approx([-n * loss for n in (2, 3, 4, 5)], abs=5e-6)
    assert results[-1].text.startswith(
        f"recall@10 {-5 * loss:+.4f} against version 1, the best of 4 champions before version 5: "
        f"{-loss:+.4f} against version 5, which has {-4 * loss:+.4f} against version 1, as measured at each "
    )
    assert results[-1].text.endswith("promote it with --force and a reason, which ends the sum")
