"""Compares the challenger with the champion by what a service has shown, before anything is promoted.

    python -m twinspire.export judge --config C --served-log FOLDER --events FILE

Explored answers give an estimate of the clicks that the challenger's own would get, interleaved answers a
preference. It decides nothing: the gate `interleaving` of `promote` does.
"""

import json
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from twinspire.export.benchmark.isolated_process import PATIENCE, ask_of_bundle
from twinspire.export.release.registry import CHALLENGER, CHAMPION, AliasState, fetch
from twinspire.export.served_traffic import off_policy
from twinspire.export.served_traffic.preference import preference_of
from twinspire.export.served_traffic.served_answers import Record, ServedFiles
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage
from twinspire.train.config import Experiment
from twinspire.train.progress import PROGRESS
from twinspire.train.training.tracking import mlflow_errors

SECONDS_PER_RECORD = 0.1  # for which its scores are waited for, at most


def command(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """The command `judge`: both judgements, `off_policy` and `interleaving`.

    Raises:
        MissingStage: there is no challenger, no champion, or no served log.
        InvalidInput: log or events cannot be read.
    """
    name, files = experiment.name, ServedFiles(arguments.served_log, arguments.events, tuple(arguments.types))
    with mlflow_errors():
        aliases = AliasState.of(name)
        if not aliases.champion or not aliases.challenger:
            missing = CHALLENGER if aliases.champion else CHAMPION
            raise MissingStage(f"{name}: no version is {missing}, so there are not two to compare")
        with PROGRESS.status("fetching both bundles"):
            _, champion = fetch(name, aliases.champion)
            folder, challenger = fetch(name, aliases.challenger)
    versions = champion.bundle_version, challenger.bundle_version
    found = preference_of(files, *versions, experiment.gates.interleaving_error)
    return {
        "model": f"models:/{name}/{aliases.challenger}",
        "champion": f"models:/{name}/{aliases.champion}",
        "off_policy": estimated(files, versions[0], folder),
        "interleaving": found and {**asdict(found), "text": found.text},
    }


def estimated(files: ServedFiles, champion: str, challenger: Path) -> dict[str, Any]:
    """What the champion's explored answers say of a challenger.

    Args:
        champion: version of its bundle.
        challenger: folder of its bundle.

    Returns:
        As `off_policy.estimate`, with a `verdict`, and the answers that are not judged: `left_out`, whose
        query does not fit the challenger, and `later` than the last event, whose clicks are not known yet.
        Where there is nothing to estimate by, the verdict alone.
    """
    if bundle.read_manifest(challenger).is_remote:
        return {"verdict": "no estimate: the challenger's index is on another server"}
    logged = files.explored(champion)
    if not logged:
        return {"verdict": "no estimate: the served log has no explored answer of the champion"}
    last = files.last_event()
    records = [each for each in logged if last is not None and each["time"] <= last]
    if not records:
        return {"verdict": "no estimate: each explored answer of the champion is later than the last event"}
    with PROGRESS.status(f"scoring the candidates of {len(records):,} answers"):
        scores, why = _scores(records, challenger)
    pairs = [pair for pair in zip(records, scores, strict=True) if pair[1] is not None]
    if not pairs:
        cure = "a query with texts needs `serve --served-log-texts`"
        return {"verdict": f"no estimate: no logged query fits the challenger ({why}; {cure})"}
    known = [record for record, _ in pairs]
    clicks = files.clicks({each["request_id"] for each in known})
    explored = off_policy.Explored.of(known, clicks, [each for _, each in pairs if each is not None])
    judged = off_policy.estimate(explored)
    return {
        **judged,
        "left_out": len(records) - len(known),
        "later": len(logged) - len(records),
        "verdict": off_policy.verdict(judged),
    }


def _scores(records: Sequence[Record], folder: Path) -> tuple[list[list[float | None] | None], str]:
    """The challenger's scores of each record's candidates, and why it has none of some."""
    with tempfile.TemporaryDirectory(prefix="twinspire-judge-") as scratch:
        path = Path(scratch) / "records.jsonl"
        with path.open("w") as file:
            for each in records:
                line = {"query": json.loads(each["query"] or "{}"), "candidates": each["candidate_ids"]}
                file.write(json.dumps(line) + "\n")
        patience = PATIENCE + SECONDS_PER_RECORD * len(records)
        found = ask_of_bundle(folder, {"task": "score", "records": str(path)}, patience)
    return found["scores"], found["why"]


def show(result: dict[str, Any], console: Console) -> None:
    """Print both judgements."""
    console.print(f"{result['model']} beside {result['champion']}")
    judged = result["off_policy"]
    if "estimates" in judged:
        sizes = f"{judged['records']:,} explored answers to {judged['users']:,} users"
        left_out = f", {judged['left_out']:,} left out" if judged["left_out"] else ""
        later = f", {judged['later']:,} later than the last event" if judged["later"] else ""
        console.print(sizes + left_out + later)
        table = Table("clicks an answer", "value", "less the champion's", "effective sample", box=None)
        table.add_row(CHAMPION, _ends(judged["champion"]))
        for name, each in judged["estimates"].items():
            shown = [_ends(each[figure]) for figure in ("value", "difference")]
            table.add_row(name, *shown, f"{each['effective_sample']:,.0f}")
        console.print(table)
    console.print(f"off-policy: {judged['verdict']}", soft_wrap=True)
    preferred = result["interleaving"]
    text = preferred["text"] if preferred else "the served log has no interleaved answer of the two"
    console.print(f"interleaving: {text}", soft_wrap=True)


def _ends(figure: Sequence[float] | None) -> str:
    if figure is None:
        return "-"
    mean, low, high = figure
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"
