"""The arguments of `python -m serving loadtest` and `swaptest`; nothing here needs what they are made of."""

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

from serving import flags
from serving.bundles import BUNDLES
from serving.load.parts import PARTS, Part

MAX_CLIENTS = 256
MAX_SECONDS = 300.0
MAX_SOAK_SECONDS = 3600.0
MAX_ROUNDS = 50
MAX_SWAPS = 1000
# What goes with a server that runs already, and what with a bundle whose servers are started here.
WITH_ADDRESS = ("clients",)
WITH_BUNDLE = ("rounds", "overload_seconds", "soak", "deadline", "only", "plot")


def add_arguments(parser: ArgumentParser) -> None:
    """Of the load test of a bundle, and of the load on a server that runs already."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--bundle", type=Path, help=f"a bundle, or a folder whose newest bundle is tested ({BUNDLES})"
    )
    source.add_argument("--address", help="of a server here that runs already: a closed loop on it, no more")
    parser.add_argument("--queries", type=Path, help="a file with a query on each line (made from examples)")
    parser.add_argument(
        "--seconds",
        type=flags.bounded_seconds(MAX_SECONDS),
        help="to measure each figure for (2; 10 with --address)",
    )
    parser.add_argument("--k", type=flags.count, default=10, help="items in an answer (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (%(default)s)")
    address = parser.add_argument_group("with --address")
    address.add_argument(
        "--clients", type=flags.bounded_count(MAX_CLIENTS), help="that ask at the same time (4)"
    )
    _add_test(parser)


def add_swap_arguments(parser: ArgumentParser) -> None:
    """Of the swap test."""
    add = parser.add_argument
    add("--bundle", type=Path, help=f"a bundle, or a folder whose newest bundle is tested ({BUNDLES})")
    add("--other", type=Path, help="another (the newest of the same model that lies beside the first)")
    add(
        "--clients",
        type=flags.bounded_count(MAX_CLIENTS),
        default=64,
        help="that ask at the same time (%(default)s)",
    )
    add(
        "--pause",
        type=flags.bounded_seconds(60.0),
        default=0.0,
        metavar="SECONDS",
        help="of a client between an answer and its next request (none: all the load that the service bears)",
    )
    add(
        "--seconds",
        type=flags.bounded_seconds(MAX_SOAK_SECONDS),
        default=60.0,
        help="of load, or more where the swaps take longer (%(default)g)",
    )
    add(
        "--swaps",
        type=flags.bounded_count(MAX_SWAPS),
        default=10,
        help="in that time, to and fro (%(default)s)",
    )
    add("--workers", type=flags.count, help="of the service (one a core)")
    add(
        "--memory-swaps",
        type=flags.bounded_count(MAX_SWAPS),
        default=20,
        help="in all, before memory is compared; those beyond --swaps come after the load, and there is one "
        "more where the service would end with the other bundle (%(default)s)",
    )
    add("--plot", type=Path, metavar="PNG", help=f"file ({BUNDLES.parent}/loadtest/swap-...png)")


def _add_test(parser: ArgumentParser) -> None:
    test = parser.add_argument_group("with --bundle")
    test.add_argument("--rounds", type=flags.bounded_count(MAX_ROUNDS), help="to measure everything in (5)")
    test.add_argument(
        "--overload-seconds",
        type=flags.bounded_seconds(MAX_SECONDS),
        metavar="SECONDS",
        help="of ten times what the service bears (30)",
    )
    test.add_argument(
        "--soak",
        type=flags.bounded_seconds(MAX_SOAK_SECONDS),
        metavar="SECONDS",
        help="of 80%% of what it bears, after the overload (none)",
    )
    test.add_argument(
        "--deadline",
        type=flags.bounded_seconds(60.0),
        metavar="SECONDS",
        help="of a request that comes when it comes (1)",
    )
    test.add_argument("--only", type=_parts, metavar="PARTS", help=f"some of {','.join(PARTS)}")
    test.add_argument("--plot", type=Path, metavar="PNG", help=f"file ({BUNDLES.parent}/loadtest/...png)")


def _parts(text: str) -> tuple[Part, ...]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise ArgumentTypeError(f"expected some of {', '.join(PARTS)}, got {unknown[0]!r}")
    return tuple(part for part in PARTS if part in names)
