"""What interleaved answers decide at a promotion."""

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from tests.export.judging.logs import interleaved
from tests.helpers import altered
from tests.helpers.releases import no_data
from tests.helpers.stdlib import Made
from twinspire.export.__main__ import parser
from twinspire.export.judging.served_answers import ServedFiles
from twinspire.export.release import promote
from twinspire.export.release.gate import Comparison, GateResult
from twinspire.export.release.gates import interleaving
from twinspire.protos import bundle
from twinspire.protos.cli import UsageError


def result_of(made: Made, scratch: Path, files: ServedFiles | None, has_champion: bool = True) -> GateResult:
    challenger = altered.side("2", made.folder)
    version = dataclasses.replace(challenger.manifest, bundle_version="one")
    champion = dataclasses.replace(challenger, version="1", manifest=version) if has_champion else None
    console = Console(quiet=True)
    comparison = Comparison(challenger, champion, made.experiment, no_data, console, scratch, answers=files)
    return interleaving.judge(comparison)[0]


@pytest.mark.parametrize(
    ("teams", "decision"), [([1] * 60 + [0] * 20, "better"), ([1, 0] * 40, "open"), ([0] * 80, "worse")]
)
def test_only_a_challenger_that_users_prefer_passes(
    made: Made, tmp_path: Path, teams: list[int], decision: str
) -> None:
    version = bundle.read_manifest(made.folder).bundle_version
    result = result_of(made, tmp_path, interleaved(tmp_path / "files", teams, challenger=version))
    assert result.holds == (decision == "better")
    assert result.bound == pytest.approx(20)
    assert result.text.startswith(f"{decision}: {sum(teams)} users preferred the challenger, ")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("none", "no --served-log and --events were given"),
        ("first", "there is no champion"),
        ("others", "the served log has no answer in which the two were interleaved"),
    ],
)
def test_without_answers_the_gate_holds_and_says_why(made: Made, tmp_path: Path, kind: str, why: str) -> None:
    files = None if kind == "none" else interleaved(tmp_path / "files", [1, 1])
    result = result_of(made, tmp_path, files, has_champion=kind != "first")
    assert (result.figure, result.holds, result.text) == (None, True, f"not judged: {why}")


def test_log_and_events_go_together(tmp_path: Path) -> None:
    known = parser().parse_args(["promote", "--served-log", "log", "--events", "e", "--types", "buy"])
    assert promote.served_files(known) == ServedFiles(Path("log"), Path("e"), ("buy",))
    assert promote.served_files(parser().parse_args(["promote"])) is None
    with pytest.raises(UsageError, match="--served-log and --events go together"):
        promote.served_files(parser().parse_args(["promote", "--events", "e"]))
