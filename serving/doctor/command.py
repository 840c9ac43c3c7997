"""The command `doctor`: all checks as a table or as JSON; it fails if something has to be done."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from protos.cli import Console, UsageError, add_command, print_result
from protos.errors import MissingStage
from serving import flag_types as flags
from serving.doctor import machine, settings
from serving.doctor.finding import Finding, FindingState
from serving.engine.limits import OTHER_FILES, WorkerLimits

CACHE, MLRUNS = Path(".cache"), Path("mlruns")


class PlainConsole:
    """A console without rich, which may not be installed yet."""

    def print(self, text: str) -> None:
        """Print a line."""
        sys.stdout.write(f"{text}\n")


def add_doctor(commands: Any) -> ArgumentParser:
    """Add `doctor` to a command line.

    Args:
        commands: of the command line, as `add_subparsers` returns them.
    """
    command = add_command(commands, "doctor", "Check this machine, and say what to do.", doctor)
    add = command.add_argument
    add(
        "--host",
        type=flags.host,
        default="127.0.0.1",
        help="address that the service is to listen on (%(default)s)",
    )
    add("--port", type=flags.port, default=50051, help="port of the service (%(default)s)")
    add("--metrics-port", type=flags.port, default=9464, help="port of /metrics (%(default)s)")
    add("--tls-certificate", type=Path, metavar="PEM", help="the server's certificates")
    add("--tls-key", type=Path, metavar="PEM", help="the key of the first of them")
    add("--client-ca", type=Path, metavar="PEM", help="authorities of the clients' certificates")
    add("--tokens", type=Path, metavar="TOML", help="file of tokens")
    add("--model", metavar="MODEL", help="ask the registry for it, such as models:/pydocs@champion")
    return command


def doctor(arguments: Namespace) -> None:
    """Run all checks, and print what they find.

    Raises:
        MissingStage: something has to be done; it has been printed.
    """
    if (arguments.tls_certificate is None) != (arguments.tls_key is None):
        raise UsageError("--tls-certificate and --tls-key go together")
    if arguments.client_ca and not arguments.tls_certificate:
        raise UsageError("--client-ca goes with --tls-certificate")
    found = list(findings(arguments))
    problems = sum(each.state is FindingState.PROBLEM for each in found)
    document = {"ok": not problems, "checks": [asdict(each) for each in found]}
    print_result((document, lambda console: _show(found, console)), arguments.json, PlainConsole)
    if problems:
        raise MissingStage(f"{problems} of {len(found)} checks found a problem")


def findings(arguments: Namespace) -> Iterator[Finding]:
    """What each check finds, in the order in which a newcomer meets them."""
    yield machine.python()
    yield machine.compiler()
    yield machine.packages(Path(__file__).parents[2] / "requirements.txt")
    yield machine.disk(Path(os.environ.get("TWINSPIRE_CACHE") or CACHE))
    yield machine.disk(MLRUNS)
    yield settings.port("the service", arguments.host, arguments.port, "PORT")
    yield settings.port("/metrics", "127.0.0.1", arguments.metrics_port, "METRICS_PORT")
    yield settings.registry()
    if arguments.model:
        yield settings.model(arguments.model)
    yield from settings.certificates(arguments.tls_certificate, arguments.tls_key, arguments.client_ca)
    yield settings.tokens(arguments.tokens, arguments.host, arguments.client_ca)
    yield machine.huge_pages()
    yield machine.descriptors(WorkerLimits.connections + OTHER_FILES)


def _show(found: list[Finding], console: Console) -> None:
    wide = max(len(each.check) for each in found)
    for each in found:
        console.print(f"{each.state:<8} {each.check:<{wide}}  {each.found}")
        if each.todo:
            console.print(f"{'':<8} {'':<{wide}}  -> {each.todo}")
