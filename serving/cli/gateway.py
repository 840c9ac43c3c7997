"""`python -m twinspire.serving gateway`: its flags, and what it prints."""

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from twinspire.protos.bundle import write_file
from twinspire.protos.cli import UsageError, print_result
from twinspire.protos.errors import InvalidInput, MissingStage
from twinspire.protos.system import logs
from twinspire.serving import flag_types as flags
from twinspire.serving.cli import tables
from twinspire.serving.cli.connection import add_security, security_of
from twinspire.serving.gateway.options import GatewayBounds, GatewayOptions


def add_arguments(parser: ArgumentParser) -> None:
    """Add the flags of `gateway`."""
    flags.add_options(parser, GatewayOptions)
    add_security(parser.add_argument_group("connection to the service"))
    flags.add_options(parser.add_argument_group("bounds"), GatewayBounds)


def run(parsed: Namespace) -> None:
    """Answer until SIGTERM or SIGINT; print the address as soon as requests are answered."""
    options = _options(parsed)
    try:
        from twinspire.serving.gateway import process
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        raise MissingStage(f"the gateway needs {name}; install it with: pip install '.[http]'") from None

    def ready(port: int) -> None:
        document = {"url": options.url(port), "host": options.host, "port": port}
        document |= {"address": options.address, "compare": options.compare_address}
        if options.port_file is not None:
            write_file(options.port_file, f"{port}\n".encode())
        as_json = parsed.json or os.environ.get(logs.FORMAT) == logs.JSON
        print_result((document, lambda console: _show(console, document)), as_json, tables.console)

    process.serve(options, ready)


def _show(console: Any, document: dict[str, Any]) -> None:
    for line in (
        f"{document['url']}/ answers for {document['address']}",
        f"{document['url']}/docs lists the requests",
    ):
        console.print(line)


def _options(parsed: Namespace) -> GatewayOptions:
    try:
        return GatewayOptions(
            **flags.chosen(parsed, GatewayOptions),
            security=security_of(parsed),
            bounds=GatewayBounds(**flags.chosen(parsed, GatewayBounds)),
        )
    except InvalidInput as error:
        raise UsageError(str(error)) from None
