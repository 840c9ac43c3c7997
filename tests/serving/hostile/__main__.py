"""`python -m tests.serving.hostile`: attack a real service, and say whether it stayed available."""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.helpers.serving import haproxy
from tests.helpers.tiny import tiny_bundle
from tests.serving.hostile import report
from tests.serving.hostile.run import Plan, names, run
from twinspire.protos.bundle import write_file
from twinspire.protos.errors import TwinspireError
from twinspire.serving import flag_types as flags

SAME = ("seconds", "rest", "kill_every", "one_core", "at_once")  # options that are fields of `Plan`
ITEMS = 20_000  # so that a batch of 256 x k = 1,000 costs seconds, as with a real catalogue


def main(argv: list[str] | None = None) -> int:
    """Run the attack.

    Returns:
        0, or 1 where a bound was missed or the service did not start.
    """
    parsed = _parser().parse_args(argv)
    if parsed.haproxy and (why := haproxy.missing()):
        sys.stderr.write(f"error: {why}\n")
        return 1
    only = [each for each in parsed.only.split(",") if each]
    with tempfile.TemporaryDirectory(prefix="twinspire-hostile-") as folder:
        bundle = parsed.bundle or tiny_bundle(Path(folder), parsed.items)
        plan = Plan(
            bundle,
            only=only,
            flags=shlex.split(parsed.flags),
            behind_haproxy=parsed.haproxy,
            **{name: getattr(parsed, name) for name in SAME},
        )
        try:
            figures = run(plan)
        except TwinspireError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    if parsed.json:
        write_file(parsed.json, (json.dumps(figures, indent=2) + "\n").encode())
    report.show(Console(stderr=True), figures)
    failed = report.missed(figures)
    for line in failed:
        sys.stderr.write(f"missed: {line}\n")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.serving.hostile", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=flags.seconds, default=180.0, help="of attack (%(default)g)")
    add("--rest", type=flags.seconds, default=60.0, help="seconds before the last figures (%(default)g)")
    add("--only", default="", type=_names, help=f"comma-separated: {', '.join(names())} (all of them)")
    add("--kill-every", type=flags.seconds, default=20.0, help="seconds between two kills (%(default)g)")
    add("--items", type=flags.count, default=ITEMS, help="of the bundle that is made (%(default)s)")
    add("--bundle", type=Path, help="serve this one instead; its queries must be texts")
    add("--flags", default="", help="further flags of `python -m twinspire.serving serve`")
    add("--haproxy", action="store_true", help="put serving/deploy/haproxy.cfg in front of the service")
    add(
        "--one-core",
        action="store_true",
        help="service and attackers on one core, good clients on the others",
    )
    add(
        "--at-once",
        action="store_true",
        help="all attackers from the beginning to the end; without it those of the service and those of the "
        "gateway take turns, and with --one-core one group after the other",
    )
    add("--json", type=Path, help="write the figures here as one JSON document")
    return parser


def _names(text: str) -> str:
    for each in text.split(","):
        if each and each not in names():
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(names())}, got {each!r}")
    return text


if __name__ == "__main__":
    sys.exit(main())
