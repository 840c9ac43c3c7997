"""The flags of `python -m twinspire.serving serve`, and the configuration that they make."""

from argparse import ArgumentParser, Namespace, _ArgumentGroup
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from twinspire.protos.cli import UsageError
from twinspire.protos.errors import MissingStage
from twinspire.protos.system.cores import usable_cores
from twinspire.serving import bundles
from twinspire.serving import flag_types as flags
from twinspire.serving.config import ServiceConfig
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.events.config import EventBounds, EventsConfig
from twinspire.serving.events.config import default_url as default_events_url
from twinspire.serving.live.config import LIVE, CatalogueConfig, default_url
from twinspire.serving.live.store.records import CatalogueBounds
from twinspire.serving.rollout.bundle_cache import BUNDLES
from twinspire.serving.rollout.follower import FollowConfig
from twinspire.serving.security.tls import TlsFiles
from twinspire.serving.served_log.config import ServedLogConfig
from twinspire.serving.wire.converters import RequestLimits


def add_source(parser: ArgumentParser) -> None:
    """Flags that name the bundle to serve."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--bundle",
        type=Path,
        default=BUNDLES,
        help="a bundle, or a folder whose newest bundle is served (%(default)s)",
    )
    source.add_argument("--model", help="a registered model, such as models:/pydocs@champion")


def add_serve(parser: ArgumentParser) -> None:
    """All flags of `serve`."""
    add_source(parser)
    add = parser.add_argument
    flags.add_options(parser, ServiceConfig)
    add("--port", type=flags.port, default=50051, help="port to listen on, 0 for any free one (%(default)s)")
    add(
        "--workers",
        type=flags.count,
        default=usable_cores(),
        help="worker processes (one per core: %(default)s)",
    )
    group = parser.add_argument_group("rollout, if --model is an alias")
    flags.add_options(group, FollowConfig)
    _add_catalogue(parser.add_argument_group("live items"))
    _add_events(parser.add_argument_group("events"))
    _add_served_log(parser.add_argument_group("served log"))
    _add_access(parser.add_argument_group("access"))
    flags.add_options(parser.add_argument_group("observability"), ServiceConfig, "observability")
    flags.add_options(parser.add_argument_group("limits of a request"), RequestLimits)
    flags.add_options(parser.add_argument_group("limits of a worker"), WorkerLimits)


def service_config(arguments: Namespace) -> ServiceConfig:
    """The configuration of `serve`; downloads a registered model.

    Raises:
        UsageError: the flags contradict each other.
        TwinspireError: there is no such bundle or model.
    """
    if (arguments.tls_certificate is None) != (arguments.tls_key is None):
        raise UsageError("--tls-certificate and --tls-key go together")
    if arguments.client_ca is not None and arguments.tls_certificate is None:
        raise UsageError("--client-ca goes with --tls-certificate")
    follow = _follow(arguments)
    for kind in (ServiceConfig, FollowConfig):
        flags.check_partners(arguments, kind)
    tls = None
    if arguments.tls_certificate:
        tls = TlsFiles(arguments.tls_certificate, arguments.tls_key, arguments.client_ca)
    try:
        limits = RequestLimits(**flags.chosen(arguments, RequestLimits))
        bounds = WorkerLimits(**flags.chosen(arguments, WorkerLimits))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if follow:
        item_tower, workers = arguments.item_tower, arguments.workers
        first, model_version = bundles.first(follow.model, follow.cache, item_tower, workers)
    else:
        first, model = folder(arguments), arguments.model or ""
        model_version = "" if "@" in model else model.rpartition("/")[2]  # of `models:/pydocs/3`, no alias
    return ServiceConfig(
        first,
        limits=limits,
        bounds=bounds,
        tls=tls,
        model_version=model_version,
        follow=follow,
        catalogue=_catalogue(arguments),
        events=_events(arguments),
        port=arguments.port,
        workers=arguments.workers,
        served_log=_served_log(arguments),
        **flags.chosen(arguments, ServiceConfig),
    )


def folder(arguments: Namespace) -> Path:
    """The bundle that `add_source`'s flags name."""
    if arguments.model:
        return bundles.download(arguments.model)
    return bundles.newest(arguments.bundle)


def _follow(arguments: Namespace) -> FollowConfig | None:
    """The alias that is followed; None if the bundle never changes.

    Raises:
        UsageError: a flag needs another flag that is not given.
    """
    if "@" in (arguments.model or ""):
        return FollowConfig(arguments.model, **flags.chosen(arguments, FollowConfig))
    for each in flags.options_of(FollowConfig):
        if getattr(arguments, each.name) is not None:
            raise UsageError(
                f"{flags.flag(each.name)} goes with an alias, such as --model models:/pydocs@champion"
            )
    return None


def _catalogue(arguments: Namespace) -> CatalogueConfig | None:
    """The store of live items; None if the service takes no writes; errors as of `_events`."""
    bounds = {each.name: getattr(arguments, _live_bound(each.name)) for each in fields(CatalogueBounds)}
    given = {name: value for name, value in bounds.items() if value is not None}
    if arguments.catalogue is None:
        for name in given:
            raise UsageError(f"{flags.flag(_live_bound(name))} goes with --catalogue")
        return None
    _require_sqlalchemy("--catalogue")
    return CatalogueConfig(arguments.catalogue or default_url(), bounds=given)


def _events(arguments: Namespace) -> EventsConfig | None:
    """The store of events; None if the service records none.

    Raises:
        UsageError: a bound is given without a store; or the store is the file of live items.
        MissingStage: there is a store, and SQLAlchemy is not installed.
        ConfigError: as `file_of`.
    """
    flags.check_partners(arguments, EventBounds)
    if arguments.events is None:
        return None
    _require_sqlalchemy("--events")
    bounds = EventBounds(**flags.chosen(arguments, EventBounds))
    config = EventsConfig(arguments.events or default_events_url(), bounds)
    items = default_url() if arguments.catalogue == "" else arguments.catalogue or ""
    if items.startswith("sqlite") and config.url.startswith("sqlite"):
        from twinspire.serving.live.store.database import EVENTS, file_of  # which needs SQLAlchemy

        if file_of(items) == file_of(config.url, EVENTS):
            raise UsageError("--events: expected another file than --catalogue: each has its own process")
    return config


def _require_sqlalchemy(flag: str) -> None:
    if find_spec("sqlalchemy") is None:
        raise MissingStage(f"{flag} needs sqlalchemy; install it with: pip install .[catalogue]")


def _served_log(arguments: Namespace) -> ServedLogConfig | None:
    """The log of answers; None if the service keeps none.

    Raises:
        UsageError: a flag needs --served-log, or contradicts another.
        MissingStage: pyarrow is not installed.
    """
    flags.check_partners(arguments, ServedLogConfig)
    if arguments.served_log is None:
        return None
    if find_spec("pyarrow") is None:
        raise MissingStage("--served-log needs pyarrow; install it with: pip install pyarrow")
    try:
        return ServedLogConfig(arguments.served_log, **flags.chosen(arguments, ServedLogConfig))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _live_bound(name: str) -> str:
    """The name of the argument for a bound of live writes."""
    return f"live_{name}"


def _add_catalogue(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--catalogue",
        nargs="?",
        const="",
        metavar="URL",
        help="take writes of items, and keep them at sqlite:///PATH or postgresql://USER@HOST/DATABASE "
        f"(without a URL: {LIVE / 'items.db'})",
    )
    for field in fields(CatalogueBounds):
        group.add_argument(
            flags.flag(_live_bound(field.name)),
            type=flags.count,
            help=f"{field.metadata['help']}; kept in the store, for all services ({field.default})",
        )


def _add_events(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--events",
        nargs="?",
        const="",
        metavar="URL",
        help="record events of users, and answer queries with a user; kept at sqlite:///PATH or "
        f"postgresql://USER@HOST/DATABASE (without a URL: {LIVE / 'events.db'})",
    )
    flags.add_options(group, EventBounds)


def _add_served_log(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--served-log",
        type=Path,
        metavar="FOLDER",
        help="keep a share of the answers in this folder, in files of Parquet",
    )
    flags.add_options(group, ServedLogConfig)


def _add_access(group: _ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--tls-certificate",
        type=Path,
        help="the server's certificates, PEM; read again when it changes",
    )
    add("--tls-key", type=Path, help="the key of the first of them, PEM; read again when it changes")
    add("--client-ca", type=Path, help="clients must show a certificate that one of these has signed, PEM")
    flags.add_options(group, ServiceConfig, "access")
