"""Small losses do not add up: a challenger is compared with the best of the last ten champions, too."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.helpers import altered, releases
from tests.helpers.stdlib import Made
from twinspire.export.evaluation import per_query
from twinspire.export.release import audit_log
from twinspire.export.release import promote as release
from twinspire.export.release.audit_log import AuditLog, Entry
from twinspire.export.release.gates import GATES, compare
from twinspire.export.release.gates.quality_history import CHAMPIONS, NAME, differences
from twinspire.export.release.release_records import Action, ReleaseRecord, parse_record
from twinspire.train.evaluation.intervals import Clusters

METRIC = "recall_at_10"
Move = tuple[Action, str, str, Mapping[str, float]]


def log_of(*moves: Move) -> AuditLog:
    """An audit log of moves: action, from, to, and the recorded differences."""
    entries = []
    for n, (action, before, after, change) in enumerate(moves, 1):
        gates: tuple[dict[str, Any], ...] = ({"name": NAME, "change": dict(change)},) if change else ()
        entries.append(Entry(ReleaseRecord(n, "", "", action, before, after, gates), "", "FINISHED", False))
    return AuditLog(tuple(entries), ())


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
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    """Each version answers one more query wrongly; the sixth is refused for its loss to the first."""
    found = per_query.load(made.folder)
    assert found is not None
    loss = 1 / len(found.rows)
    margin = dataclasses.replace(made.experiment.gates, quality_margin=4.5 * loss)
    experiment = dataclasses.replace(made.experiment, gates=margin)
    log = AuditLog((Entry(ReleaseRecord(1, "", "", "promote", "", "1"), "", "FINISHED", False),), ())
    monkeypatch.setattr(audit_log, "read", lambda _: log)
    gates = [gate for gate in GATES if gate.name in ("quality", NAME)]
    folder, results = worse(made.folder, tmp_path, 0), []
    for n in range(2, 7):
        champion = altered.side(str(n - 1), folder)
        folder = worse(folder, tmp_path, 1)
        decision = compare(
            altered.side(str(n), folder), champion, experiment, releases.no_data, console, gates
        )
        assert {each.name for each in decision.refused} == ({NAME} if n == 6 else set())
        results.append(next(each for each in decision.results if each.name == NAME))
        summary = tuple(release._summary(each) for each in decision.results)
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
