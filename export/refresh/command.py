"""`python -m twinspire.export refresh`: a new bundle of the champion's towers and the catalogue as it stands.

It is promoted if all gates hold. The command can run on a schedule beside the service, which follows the
champion.
"""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from rich.console import Console

from twinspire.export.refresh.refresh import refresh as run
from twinspire.export.refresh.table import catalogue_table, store_changes, write_table
from twinspire.export.terminal import show_record
from twinspire.train.config import Experiment
from twinspire.train.data.dataset import Dataset, prepare
from twinspire.train.progress import PROGRESS


def refresh(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Make a new bundle of the champion's towers and the catalogue as it stands; resumes after a kill."""

    def data() -> Dataset:
        return prepare(experiment, arguments.config.parent, console=PROGRESS)

    return run(experiment, data, arguments.catalogue, arguments.items)


def catalogue(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Write the items of the data set with the changes of the store, as a table that training reads."""
    dataset = prepare(experiment, arguments.config.parent, console=PROGRESS)
    snapshot, changes = store_changes(arguments.catalogue)
    display = dataset.report["display"]
    items = catalogue_table(dataset.items, experiment.item, display, changes)
    write_table(items, arguments.output)
    return {
        "output": str(arguments.output),
        "items": items.height,
        "written": sum(not each.deleted for each in changes),
        "deletes": sum(each.deleted for each in changes),
        "catalogue": asdict(snapshot),
    }


def show_table(result: dict[str, Any], console: Console) -> None:
    """Print the number of items, and the state of the store that is in them."""
    console.print(
        f"{result['items']:,} items, of sequence {result['catalogue']['sequence']:,}: {result['output']}",
        highlight=False,
        soft_wrap=True,
    )


def show_refreshed(result: dict[str, Any], console: Console) -> None:
    """Print what has changed, the gates and the champion."""
    for item_id, why in result["failed_items"].items():
        text = f"left out: {item_id!r}: {why}"
        console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
    if not result["refreshed"]:
        console.print(
            f"{result['model']} has the catalogue as it stands: nothing to refresh", highlight=False
        )
        return
    at = f", of sequence {result['catalogue']['sequence']:,}" if result["catalogue"] else ""
    console.print(
        f"{result['items']:,} items{at}: {result['encoded']:,} encoded, {result['kept']:,} kept; "
        f"{result['new']:,} new, {result['updated']:,} with other fields, {result['deleted']:,} deleted",
        highlight=False,
    )
    console.print(f"bundle {result['bundle_version'][:12]}: {result['bundle']}", soft_wrap=True)
    show_record(result, console)
