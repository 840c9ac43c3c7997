"""The options of `python -m tests.load loadtest`, `swaptest`, `filtertest`, `livetest` and `gatewaytest`.

They are in a module of their own, so that parsing a command line does not import the tests.
"""

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Literal, TypeVar

from serving import flag_types as flags
from serving.rollout.bundle_cache import BUNDLES
from tests.load.plan import PARTS, Part

MAX_CLIENTS = 256
MAX_SECONDS = 300.0
MAX_SOAK_SECONDS = 3600.0
MAX_ROUNDS = 50
MAX_SWAPS = 1000
MAX_QUERIES = 1000
MAX_OPERATIONS, MAX_KILLS, MAX_SERVICES = 10_000_000, 1000, 4
LivePart = Literal["history", "swap", "load", "filters"]
LIVE_PARTS: tuple[LivePart, ...] = ("history", "swap", "load", "filters")
# Options of the load test that have an effect only with --address, and only with --bundle.
WITH_ADDRESS = ("clients",)
WITH_BUNDLE = ("rounds", "overload_seconds", "soak", "deadline", "only", "plot")
PLOTS = BUNDLES.parent / "loadtest"  # folder of plots without --plot
BUNDLE_HELP = f"a bundle, or a folder whose newest bundle is tested ({BUNDLES})"

Name = TypeVar("Name", bound=str)


def add_load_arguments(parser: ArgumentParser) -> None:
    """Add the options of the load test."""
    clients, rounds = flags.bounded_count(MAX_CLIENTS), flags.bounded_count(MAX_ROUNDS)
    seconds, soak = flags.bounded_seconds(MAX_SECONDS), flags.bounded_seconds(MAX_SOAK_SECONDS)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bundle", type=Path, help=BUNDLE_HELP)
    source.add_argument("--address", help="only run a closed loop on this running server of this machine")
    add = parser.add_argument
    _add_query_file(parser)
    add("--seconds", type=seconds, help="of each measurement (2; 10 with --address)")
    _add_k(parser)
    _add_seed(parser)
    add = parser.add_argument_group("with --address").add_argument
    add("--clients", type=clients, help="number of clients (4)")
    add = parser.add_argument_group("with --bundle").add_argument
    add("--rounds", type=rounds, help="repetitions of all measurements (5)")
    add("--overload-seconds", type=seconds, metavar="SECONDS", help="of ten times the capacity (30)")
    add("--soak", type=soak, metavar="SECONDS", help="at 80%% of the capacity, after the overload (none)")
    add(
        "--deadline",
        type=flags.bounded_seconds(60.0),
        metavar="SECONDS",
        help="of a request in an open loop (1)",
    )
    add("--only", type=_parts, metavar="PARTS", help=f"some of {','.join(PARTS)}")
    add("--plot", type=Path, metavar="PNG", help=f"file ({PLOTS}/...png)")


def add_swap_arguments(parser: ArgumentParser) -> None:
    """Add the options of the swap test."""
    clients, swaps = flags.bounded_count(MAX_CLIENTS), flags.bounded_count(MAX_SWAPS)
    add = parser.add_argument
    _add_pair(parser)
    add("--clients", type=clients, default=64, help="number of clients (%(default)s)")
    add(
        "--pause",
        type=flags.bounded_seconds(60.0),
        default=0.0,
        metavar="SECONDS",
        help="of a client between an answer and its next request (none: full load)",
    )
    add(
        "--seconds",
        type=flags.bounded_seconds(MAX_SOAK_SECONDS),
        default=60.0,
        help="of load; longer where the swaps take longer (%(default)g)",
    )
    add("--swaps", type=swaps, default=10, help="in that time, to and fro (%(default)s)")
    add("--workers", type=flags.count, help="of the service (one a core)")
    add(
        "--memory-swaps",
        type=swaps,
        default=20,
        help="in all before memory is compared; those beyond --swaps follow after the load, plus one where "
        "the service would end with the other bundle (%(default)s)",
    )
    add("--plot", type=Path, metavar="PNG", help=f"file ({PLOTS}/swap-...png)")


def add_gateway_test_arguments(parser: ArgumentParser) -> None:
    """Add the options of the gateway test."""
    add = parser.add_argument
    _add_bundle(parser)
    _add_query_file(parser)
    add("--rounds", type=flags.bounded_count(MAX_ROUNDS), default=5, help="repetitions (%(default)s)")
    seconds = flags.bounded_seconds(MAX_SECONDS)
    add("--seconds", type=seconds, default=2.0, help="of each measurement (%(default)s)")
    _add_k(parser)
    _add_seed(parser)


def add_filter_arguments(parser: ArgumentParser) -> None:
    """Add the options of the filter test."""
    add = parser.add_argument
    _add_bundle(parser)
    _add_k(parser)
    count = flags.bounded_count(MAX_QUERIES)
    add("--queries", type=count, default=200, help="of each bucket at most (%(default)s)")
    add(
        "--recall",
        type=flags.share,
        default=0.98,
        help="smallest recall of a bucket; the test fails if a whole 95%% interval is below (%(default)s)",
    )
    add("--seed", type=int, default=0, help="of all random choices (%(default)s)")
    add("--plot", type=Path, metavar="PNG", help=f"file ({PLOTS}/filters-...png)")


def add_live_arguments(parser: ArgumentParser) -> None:
    """Add the options of the live test."""
    add = parser.add_argument
    _add_pair(parser)
    add(
        "--only",
        type=_live_parts,
        metavar="PARTS",
        help=f"some of {','.join(LIVE_PARTS)} (all; filters if the bundle has filter fields); history and "
        "swap take two bundles",
    )
    seed = "of texts, queries and choices (%(default)s); threads and processes still run in any order"
    _add_seed(parser, seed)
    add = parser.add_argument_group("history").add_argument
    operations, kills = flags.bounded_count(MAX_OPERATIONS), flags.bounded_count(MAX_KILLS)
    add("--operations", type=operations, default=100_000, help="writes and searches (%(default)s)")
    add("--kills", type=kills, default=20, help="of processes, with SIGKILL (%(default)s)")
    add(
        "--services",
        type=flags.bounded_count(MAX_SERVICES),
        default=1,
        help="with one catalogue; several need --catalogue with PostgreSQL (%(default)s)",
    )
    add(
        "--config",
        type=Path,
        metavar="TOML",
        help="experiment of the bundles, whose champion is refreshed in between (default: no refresh)",
    )
    add("--catalogue", metavar="URL", help="an empty store (default: SQLite in a temporary folder)")
    add = parser.add_argument_group("load").add_argument
    add("--rounds", type=flags.bounded_count(MAX_ROUNDS), default=7, help="repetitions (%(default)s)")
    add(
        "--seconds",
        type=flags.bounded_seconds(MAX_SECONDS),
        default=2.0,
        help="of each measurement in a round (%(default)g)",
    )


def _add_bundle(parser: ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, help=BUNDLE_HELP)


def _add_pair(parser: ArgumentParser) -> None:
    """Add the options that name two bundles."""
    _add_bundle(parser)
    parser.add_argument(
        "--other", type=Path, help="another bundle (default: the newest of the same model beside the first)"
    )


def _add_query_file(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--queries", type=Path, help="file with a query on each line (default: generated from examples)"
    )


def _add_k(parser: ArgumentParser) -> None:
    parser.add_argument("--k", type=flags.count, default=10, help="items in an answer (%(default)s)")


def _add_seed(parser: ArgumentParser, help_text: str = "of all random choices (%(default)s)") -> None:
    parser.add_argument("--seed", type=flags.count_or_none, default=0, help=help_text)


def _parts(text: str) -> tuple[Part, ...]:
    return _chosen(text, PARTS)


def _live_parts(text: str) -> tuple[LivePart, ...]:
    return _chosen(text, LIVE_PARTS)


def _chosen(text: str, parts: tuple[Name, ...]) -> tuple[Name, ...]:
    """The parts of a test that a text names, in their order."""
    names = text.split(",")
    if unknown := [name for name in names if name not in parts]:
        raise ArgumentTypeError(f"expected some of {', '.join(parts)}, got {unknown[0]!r}")
    return tuple(part for part in parts if part in names)
