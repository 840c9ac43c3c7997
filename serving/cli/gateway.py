"""`python -m twinspire.serving gateway`: its flags, and what it prints."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from twinspire.protos.bundle import write_file
from twinspire.protos.cli import UsageError, print_result
from twinspire.protos.errors import InvalidInput, MissingStage
from twinspire.serving import flag_types as flags
from twinspire.serving.cli import tables
from twinspire.serving.cli.client_commands import add_security
from twinspire.serving.client.security import Security
from twinspire.serving.gateway.options import GatewayBounds, GatewayOptions


def add_arguments(parser: ArgumentParser) -> None:
    """Add the flags of `gateway`."""
    flags.add_options(parser, GatewayOptions)
    add = parser.add_argument
    add("--port-file", type=flags.output_file, help="write the port here once requests are answered")
    add("--metrics-host", help=f"address of the metrics ({GatewayOptions.metrics_host})")
    access = parser.add_argument_group("access")
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name without a port by which clients may call it, beside --host and localhost "
        "(any, if --host is no loopback); repeatable",
    )
    access.add_argument(
        "--https-certificate", type=Path, metavar="PEM", help="the gateway's own certificates"
    )
    access.add_argument("--https-key", type=Path, metavar="PEM", help="the key of the first of them")
    access.add_argument("--insecure", action="store_true", help="listen beyond this machine without HTTPS")
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

    def ready(listening: process.Listening) -> None:
        document = {
            "url": listening.url,
            "host": listening.host,
            "port": listening.port,
            "metrics_port": listening.metrics_port,
            "address": options.address,
            "compare": options.compare_address,
        }
        if parsed.port_file is not None:
            write_file(parsed.port_file, f"{listening.port}\n".encode())
        print_result((document, lambda console: _show(console, document)), parsed.json, tables.console)

    process.serve(options, ready)


def _show(console: Any, document: dict[str, Any]) -> None:
    lines = [
        f"{document['url']}/ answers for {document['address']}",
        f"{document['url']}/docs lists the requests",
    ]
    if document["metrics_port"] is not None:
        lines.append(f"metrics are on port {document['metrics_port']}")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _options(parsed: Namespace) -> GatewayOptions:
    if parsed.metrics_host is not None and parsed.metrics_port is None:
        raise UsageError("--metrics-host goes with --metrics-port")
    try:
        security = Security(
            ca=parsed.ca,
            certificate=parsed.certificate,
            key=parsed.key,
            server_name=parsed.server_name,
            tls=parsed.tls,
        )
        return GatewayOptions(
            **flags.chosen(parsed, GatewayOptions),
            security=security,
            metrics_host=parsed.metrics_host or GatewayOptions.metrics_host,
            allowed_hosts=tuple(parsed.allow_host),
            certificate=parsed.https_certificate,
            key=parsed.https_key,
            insecure=parsed.insecure,
            bounds=GatewayBounds(**flags.chosen(parsed, GatewayBounds)),
        )
    except InvalidInput as error:
        raise UsageError(str(error)) from None
