"""The flags of `python -m serving serve`, and the plan that they make."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ArgumentGroup
from dataclasses import fields
from pathlib import Path
from typing import Any

from serving import bundles, flags
from serving.command import Misuse
from serving.limits import Bounds, Limits
from serving.plan import Follow, Plan, cores
from serving.ratelimit import ITEMS_PER_TOKEN
from serving.tls import TlsFiles

# Flags that go with an alias that is followed, and the fields of `Follow` that they are.
FOLLOWING = {
    "poll": "poll_seconds",
    "canary": "canary",
    "canary_share": "canary_share",
    "shadow": "shadow",
    "shadow_share": "shadow_share",
    "memory": "memory_mib",
}
AN_ALIAS = "an alias, such as --model models:/pydocs@champion,"


def add_source(parser: ArgumentParser) -> None:
    """What to serve."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--bundle",
        type=Path,
        default=bundles.BUNDLES,
        help="a bundle, or a folder whose newest bundle is served (%(default)s)",
    )
    source.add_argument("--model", help="a registered model, such as models:/pydocs@champion")


def add_serve(parser: ArgumentParser) -> None:
    """Everything that `serve` can be told."""
    add_source(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="to listen on (%(default)s)")
    add("--port", type=flags.port, default=50051, help="to listen on, 0 for any free one (%(default)s)")
    add("--port-file", type=Path, help="write the port here once requests are answered")
    add(
        "--workers", type=flags.count, default=cores(), help="processes that answer (one a core: %(default)s)"
    )
    add("--threads", type=flags.count, default=1, help="of the query tower in one call (%(default)s)")
    add("--grace", type=flags.seconds, default=10.0, help="seconds to finish requests in (%(default)s)")
    add(
        "--worker-timeout",
        type=flags.seconds_or_none,
        default=30.0,
        help="seconds without a heartbeat after which a worker is replaced; 0: never (%(default)s)",
    )
    _add_release(parser.add_argument_group("which bundles, where --model is an alias"))
    add("--item-tower", action="store_true", help="offer the item tower too, by the Open Inference Protocol")
    _add_access(parser.add_argument_group("who may ask"))
    _add_observability(parser.add_argument_group("what is told of it"))
    _add_fields(parser.add_argument_group("bounds of a request"), Limits)
    _add_fields(parser.add_argument_group("bounds of a worker"), Bounds)


def plan(arguments: Namespace) -> Plan:
    """What the flags of `serve` ask for; a registered model has been downloaded.

    Raises:
        Misuse: they make no sense together.
        TwinspireError: there is no such bundle or model.
    """
    if (arguments.tls_certificate is None) != (arguments.tls_key is None):
        raise Misuse("--tls-certificate and --tls-key go together")
    if arguments.client_ca and not arguments.tls_certificate:
        raise Misuse("--client-ca goes with --tls-certificate and --tls-key")
    tls = None
    if arguments.tls_certificate:
        tls = TlsFiles(arguments.tls_certificate, arguments.tls_key, arguments.client_ca)
    try:
        limits, bounds = _fields(arguments, Limits), _fields(arguments, Bounds)
    except ValueError as error:
        raise Misuse(str(error)) from None
    follow = _follow(arguments)
    if follow:
        first, model_version = bundles.first(follow.model, follow.cache, arguments.item_tower)
    else:
        first, model_version = folder(arguments), _number(arguments.model)
    direct = "host port port_file workers threads grace worker_timeout tokens insecure rate burst"
    direct += " metrics_host metrics_port log_rate log_queries trace_endpoint trace_ratio item_tower"
    return Plan(
        first,
        limits=limits,
        bounds=bounds,
        tls=tls,
        model_version=model_version,
        follow=follow,
        **{name: getattr(arguments, name) for name in direct.split()},
    )


def folder(arguments: Namespace) -> Path:
    """The bundle that `add_source`'s flags name."""
    if arguments.model:
        return bundles.download_apart(arguments.model)
    return bundles.newest(arguments.bundle)


def _follow(arguments: Namespace) -> Follow | None:
    """What is followed; None where a bundle is served for good.

    Raises:
        Misuse: a flag goes with something that is not there.
    """
    is_alias = "@" in (arguments.model or "")
    given = {name: value for name in FOLLOWING if (value := getattr(arguments, name)) is not None}
    for flag in ("canary", "shadow"):
        if f"{flag}_share" in given and flag not in given:
            raise Misuse(f"--{flag}-share goes with --{flag}")
    if arguments.no_follow and not is_alias:
        raise Misuse(f"--no-follow goes with {AN_ALIAS}")
    if is_alias and not arguments.no_follow:
        fields = {FOLLOWING[name]: value for name, value in given.items()}
        return Follow(arguments.model, **fields)
    for name in given:
        raise Misuse(f"--{name.replace('_', '-')} goes with {AN_ALIAS} that is followed")
    return None


def _number(model: str | None) -> str:
    """The version of `models:/pydocs/3`; empty where it says none."""
    return model.rpartition("/")[2] if model and "@" not in model else ""


def _add_release(group: _ArgumentGroup) -> None:
    add = group.add_argument
    usual = Follow("")
    add(
        "--poll",
        type=flags.seconds,
        help="seconds between two looks at the registry; what the alias names is then served "
        f"({usual.poll_seconds:g})",
    )
    add("--no-follow", action="store_true", help="serve for good what the alias names now")
    add("--canary", help="an alias, such as models:/pydocs@challenger, that answers a part")
    add("--canary-share", type=_part(1), help=f"part of the requests for it ({usual.canary_share:g})")
    add("--shadow", help="an alias that is asked too, off the answers' path, and compared")
    add("--shadow-share", type=_part(1), help=f"part of the searches for it ({usual.shadow_share:g})")
    add(
        "--memory",
        type=flags.count,
        help="MiB that a new bundle may take in all workers (what the machine has left)",
    )


def _add_access(group: _ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--tls-certificate",
        type=Path,
        help="the server's certificates, PEM; read again when it changes, and on SIGHUP",
    )
    add("--tls-key", type=Path, help="the key of the first of them, PEM; read again when it changes")
    add("--client-ca", type=Path, help="clients must show a certificate that one of these has signed, PEM")
    add(
        "--tokens",
        type=Path,
        help="TOML of the tokens that count, as `python -m serving token` writes it; read again when it "
        "changes, and on SIGHUP; deleting it revokes no token, `token = []` in it revokes all",
    )
    add("--insecure", action="store_true", help="serve beyond this machine in the clear all the same")
    add(
        "--rate",
        type=_part(1e9),
        default=0.0,
        help="tokens a second that a client may spend; 0: no bound. A query costs 1 token, and 1 more for "
        f"each {ITEMS_PER_TOKEN} items that it asks for or excludes",
    )
    add("--burst", type=flags.count, default=100, help="tokens that a client may spend at once (%(default)s)")


def _add_observability(group: _ArgumentGroup) -> None:
    add = group.add_argument
    add("--metrics-port", type=flags.port, help="answer Prometheus over HTTP here; 0 for any free port")
    add("--metrics-host", default="127.0.0.1", help="to listen on for that (%(default)s)")
    add("--log-rate", type=_part(1), default=0.0, help="part of the requests that is logged, 0 to 1")
    add("--log-queries", action="store_true", help="log the texts of queries too")
    add("--trace-endpoint", help="send OpenTelemetry traces there, such as http://127.0.0.1:4317")
    add(
        "--trace-ratio", type=_part(1), default=0.01, help="part of the requests that is traced (%(default)s)"
    )


def _add_fields(group: _ArgumentGroup, bounds: type[Any]) -> None:
    for field in fields(bounds):
        flag = f"--{field.name.replace('_', '-')}"
        text = f"{field.metadata['help']} (%(default)s)"
        group.add_argument(flag, type=flags.count, default=field.default, help=text)


def _fields(arguments: Namespace, bounds: type[Any]) -> Any:
    return bounds(**{field.name: getattr(arguments, field.name) for field in fields(bounds)})


def _part(most: float) -> Any:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise ArgumentTypeError(f"expected a number from 0 to {most:g}, got {text!r}")
        return value

    return parse
