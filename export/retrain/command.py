"""`python -m twinspire.export retrain`: newer towers for the champion, promoted if all gates hold.

The command can run on a schedule beside the service, which follows the champion.
"""

from argparse import Namespace
from typing import Any

from rich.console import Console

from twinspire.export.release.registry import AliasState
from twinspire.export.retrain.retrain import retrain as run
from twinspire.export.terminal import show_record
from twinspire.train.config import Experiment


def retrain(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Train the champion on with newer data, and promote the better towers; resumes after a kill."""
    found = run(experiment, arguments.config.parent, arguments.catalogue)
    champion = AliasState.of(experiment.name).champion
    model = f"models:/{experiment.name}/{champion}" if champion else ""
    return {"model": model, "alias": "champion" if champion else "", **found}


def show_retrained(result: dict[str, Any], console: Console) -> None:
    """Print what was new, the figures of the towers, the decision, and why."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    for line in result["data"]:
        say(line)
    for each in result["candidates"]:
        say(
            f"{each['kind']}: {each['metric']} on validation {each['start']:.4f} at the start, "
            f"{each['validation']:.4f} at the end (run {each['run_id']})"
        )
    for line in (*filter(None, [result["comparison"]]), *result["notes"]):
        say(line)
    if result["done_before"]:
        outcome = "refused" if result["refused"] else "promoted"
        say(
            f"nothing to do: these data were trained on before, and version {result['version']} was {outcome}"
        )
    elif not result["refused"]:
        show_record(result, console)
    if result["refused"]:
        say(result["refused"], "yellow")
        stays = f"{result['model']} stays {result['alias']}" if result["model"] else "there is no champion"
        say(stays)
