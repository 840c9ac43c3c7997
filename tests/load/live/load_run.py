"""Throughput with live items and while they are written, and the times of writes.

Services with the same bundle and one worker each, on one core, are put under load in turns: without a
catalogue, with few live items, and with many. For the writes the service, its writers and the load share both
cores, as on a machine with two.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.helpers import query_generator
from tests.load.live.items import shared_ids, writing
from tests.load.load import Say, Tick, percentile
from tests.load.plan import Measurement, Plan
from tests.load.rounds import RoundsTest
from tests.load.services import Service, choose_cores, pinned, serve_bundle
from tests.load.workload import Workload
from twinspire.protos import bundle

CLIENTS = 64
LIVE = {"few": (1_000, 1_000), "many": (10_000, 5_000)}  # live items, and deleted items of the bundle
UPSERTS_PER_S = 200.0  # during the search load, single items
SINGLE_PER_S = 20.0  # of single items without other load
BATCH = 100
WRITER_THREADS, BATCH_THREADS = 8, 2
SPARE_SECONDS = 60.0  # beyond those that writes last by plan
SINGLE_SECONDS = 3.0  # in a round; at 20 a second 60 calls
MEASUREMENTS = (
    *(Measurement(name, "closed loop", name, CLIENTS) for name in ("none", *LIVE)),
    Measurement("not_writing", "both cores", "few", CLIENTS),
    Measurement("writing", "both cores, during upserts", "few", CLIENTS),
    Measurement("upserts", "batches", "few", BATCH),
    Measurement("visible", "single items", "few", 1),
)


class LiveLoadTest(RoundsTest):
    """Measures services with live items."""

    def run(self, place: Path, live: Mapping[str, tuple[int, int]] = LIVE) -> dict[str, Any]:
        """Run the test; returns figures, with `_min` and `_max` of the rounds.

        Args:
            place: an empty folder, for the services' files.
            live: live items of the services by name, and deletes: those of at most half of the bundle's.
        """
        self.singles = list[float]()  # seconds of the writes of single items
        figures, cores = self.figures, self.cores
        self._live, self._writers = live, dict[str, Service]()
        with ExitStack() as stack:
            for name in ("none", *live):
                flags = ("--catalogue", f"sqlite:///{place.absolute()}/{name}.db") if name in live else ()
                variables = {"TWINSPIRE_CACHE": str(place / name / "cache")}
                service = serve_bundle(self.plan.bundle, cores.servers, 1, *flags, environment=variables)
                self.servers[name] = stack.enter_context(service)
            for name, (items, deletes) in live.items():
                process = writing(self.servers[name], self.plan.bundle, cores.load, self.plan.seed)
                writer = self._writers[name] = stack.enter_context(process)
                deleted = shared_ids([self.plan.bundle], deletes)
                self._say(f"writing {items:,} live items and {len(deleted):,} deletes")
                writer.ask("fill", items, deleted)
                figures.add(**{f"{name}_live_items": float(items), f"{name}_deletes": float(len(deleted))})
            self.measure(MEASUREMENTS)
        for name in live:
            figures.divide(f"rps_share_with_{name}", f"{name}_rps", "none_rps")
        figures.divide("rps_share_while_writing", "writing_rps", "not_writing_rps")
        figures.divide("p99_ratio_while_writing", "writing_p99_us", "not_writing_p99_us")
        for percent in (50, 99):
            figures.add(**{f"visible_p{percent}_ms": 1000 * percentile(self.singles, percent)})
        return figures.document() | {
            "visible_calls": len(self.singles),
            "load_errors": sum(self.errors.values()),
            "pinned": cores.note or "one core for a service, one for the load",
        }

    def once(self, each: Measurement, number: int) -> None:
        """As `RoundsTest.once`: closed loops on their own cores; everything else on both."""
        if each.kind == "closed loop":
            with pinned(self.cores.load):
                self._searches(each, number)
            return
        service, process = self.servers[each.server], self._writers[each.server]
        items, seconds = self._live[each.server][0], self.plan.seconds
        with pinned(self.cores.both, service, process):
            if each.key == "not_writing":
                self._searches(each, number)
            elif each.key == "writing":  # the writes begin before the load does, and end after it
                process.send("rate", UPSERTS_PER_S, 2 * seconds + 1.5, WRITER_THREADS, items)
                self._searches(each, number)
                done = process.answer(SPARE_SECONDS + 2 * seconds)
                rate, visible = done["items"] / done["seconds"], 1000 * percentile(done["calls"], 99)
                self.figures.add(writing_upserts_per_s=rate, writing_visible_p99_ms=visible)
            elif each.key == "upserts":
                size, limit = min(BATCH, items), seconds + SPARE_SECONDS
                done = process.ask("batches", size, seconds, BATCH_THREADS, items, seconds=limit)
                self.figures.add(upserts_per_s=done["items"] / done["seconds"])
            else:
                done = process.ask("rate", SINGLE_PER_S, SINGLE_SECONDS, 1, items)
                self.singles.extend(done["calls"])

    def _searches(self, each: Measurement, number: int) -> None:
        address = self.servers[each.server].address
        self.add_calls(each, self.closed_loop(address, self.workload.searches(), each.size, number))


def of_plan(plan: Plan, say: Say, tick: Tick) -> LiveLoadTest:
    """The test of a plan; answers are not compared."""
    queries = query_generator.of_bundle(bundle.read_manifest(plan.bundle), plan.seed)
    return LiveLoadTest(plan, Workload(queries, plan.k, None), choose_cores(), say, tick)
