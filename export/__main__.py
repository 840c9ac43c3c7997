"""python -m twinspire.export bundle | encode | bench | evaluate | register | promote | refresh | ...

Builds the bundle of a training run, measures it, and releases it through the model registry.
"""

import importlib
import sys
from argparse import ArgumentParser, Namespace
from typing import Any, NamedTuple

from rich.console import Console

from twinspire.export.arguments import add_options
from twinspire.protos.cli import Document, UsageError, command_line, imports_frozen
from twinspire.train.cli import add_experiment_command, execute
from twinspire.train.config import read_experiment


class Command(NamedTuple):
    """A command, as `module:function`; both are imported when it runs, because most take seconds to import.

    Args:
        help: one sentence.
        run: takes the experiment and the arguments, and returns the document.
        show: prints the document on a console.
        connects: whether it asks MLflow, whose store is found before.
    """

    help: str
    run: str
    show: str
    connects: bool = True


COMMANDS = {
    "bundle": Command(
        "Export the towers of a run, measure them, build the index, and write the bundle.",
        "twinspire.export.commands:make_bundle",
        "twinspire.export.terminal:show_bundle",
    ),
    "encode": Command(
        "Encode a table of items with a bundle's item tower; resumes after a kill.",
        "twinspire.export.encoding.command:encode",
        "twinspire.export.encoding.command:show_encoded",
        connects=False,
    ),
    "bench": Command(
        "Measure the latency of a bundle (towers beside torch, retriever, loading), with intervals.",
        "twinspire.export.benchmark.command:bench",
        "twinspire.export.terminal:show_bench",
    ),
    "evaluate": Command(
        "Measure a bundle on test split and judged queries again.",
        "twinspire.export.commands:evaluate",
        "twinspire.export.terminal:show_quality",
    ),
    "register": Command(
        "Put a bundle into the MLflow model registry, as the challenger.",
        "twinspire.export.release.commands:register",
        "twinspire.export.terminal:show_registered",
    ),
    "promote": Command(
        "Make the challenger the champion, if all gates hold.",
        "twinspire.export.release.promote:command",
        "twinspire.export.terminal:show_record",
    ),
    "judge": Command(
        "Compare the challenger with the champion by explored and interleaved answers and their clicks.",
        "twinspire.export.release.judge:command",
        "twinspire.export.release.judge:show",
    ),
    "drift": Command(
        "Compare served queries, answers and items with those of training; exits with 1 if some drifted.",
        "twinspire.export.release.drift:command",
        "twinspire.export.release.drift:show",
    ),
    "refresh": Command(
        "Make a new bundle of the champion's towers and the catalogue as it stands; resumes after a kill.",
        "twinspire.export.refresh.refresh:command",
        "twinspire.export.refresh.refresh:show_refreshed",
    ),
    "retrain": Command(
        "Train the champion on with newer data, and promote the better towers; resumes after a kill.",
        "twinspire.export.retrain.retrain:command",
        "twinspire.export.retrain.retrain:show",
    ),
    "catalogue": Command(
        "Write the items of the data set with the changes of the store, as a table that training reads.",
        "twinspire.export.refresh.table:command",
        "twinspire.export.refresh.table:show",
        connects=False,
    ),
    "rollback": Command(
        "Make the champion before this one the champion again, or the version that is named.",
        "twinspire.export.release.commands:rollback",
        "twinspire.export.terminal:show_record",
    ),
    "prune": Command(
        "Drop the collections in vector databases that no alias of the model can come back to.",
        "twinspire.export.release.prune:command",
        "twinspire.export.terminal:show_pruned",
    ),
    "history": Command(
        "Print the audit log: each promotion, refusal and rollback of the champion; and missing records.",
        "twinspire.export.release.commands:history",
        "twinspire.export.terminal:show_history",
    ),
}


def parser() -> ArgumentParser:
    """The command line."""
    top = command_line("python -m twinspire.export", __doc__)
    commands = top.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name, command in COMMANDS.items():
        add_options(name, _add(commands, name, command))
    return top


def find(name: str) -> Any:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    with imports_frozen():
        return getattr(importlib.import_module(module), function)


def _add(commands: Any, name: str, command: Command) -> ArgumentParser:
    def run(arguments: Namespace) -> Document:
        if getattr(arguments, "force", False) and not arguments.reason:
            raise UsageError("promote --force: say why with --reason")
        carry_out = find(command.run)
        if command.connects:
            with imports_frozen():  # of MLflow's store
                find("twinspire.train.training.tracking:connect")()
        document: Document = carry_out(read_experiment(arguments.config), arguments)
        return document

    def show(document: Document, console: Console) -> None:
        find(command.show)(document, console)

    return add_experiment_command(commands, name, run, show, command.help)


def main() -> int:
    """Run a command and return its exit code."""
    return execute(parser())


if __name__ == "__main__":
    sys.exit(main())
