"""What the tests share that compare servers: rounds of measurements, their figures, and what failed.

A shared machine is faster in one minute than in the next. So servers are measured in turn, round after round,
every other round in reverse order, and each ratio is of figures of one round.
"""

import gc
import os
import platform
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Sequence
from importlib.metadata import version
from typing import Any

from tests.helpers import query_generator
from tests.load.load import LoadResult, Requests, Say, Tick, closed_loop
from tests.load.plan import Measurement, Plan, Target, missed
from tests.load.report import Figures, Report, machine_text
from tests.load.services import Cores, Service
from tests.load.workload import Workload, expected_answers
from twinspire.protos.bundle import Manifest
from twinspire.protos.system.timing import p99_remark
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.retriever import Retriever

DENSE_ALONE = (
    "the bundle is hybrid; all searches are by the vectors alone, as the plain server knows no other"
)


class RoundsTest(ABC):
    """Measures in rounds."""

    def __init__(self, plan: Plan, workload: Workload, cores: Cores, say: Say, tick: Tick) -> None:
        self.plan, self.workload, self.cores = plan, workload, cores
        self.figures = Figures()
        self.errors = Counter[str]()  # failed calls by server, code and first message
        self.servers: dict[str, Service] = {}  # by the names in the measurements
        self._say, self._tick = say, tick

    @abstractmethod
    def once(self, each: Measurement, number: int) -> None:
        """Measure one thing in the round of this number."""

    def measure(self, measurements: Sequence[Measurement]) -> None:
        for number in range(self.plan.rounds):
            for each in measurements if number % 2 == 0 else reversed(measurements):
                self._say(f"round {number + 1} of {self.plan.rounds}: {each.server}, {each.kind} {each.size}")
                self.once(each, number)

    def closed_loop(self, address: str, requests: Requests, clients: int, number: int) -> LoadResult:
        plan = self.plan
        return closed_loop(address, requests, clients, plan.seconds, plan.warm_up, plan.seed + number)

    def add_calls(self, each: Measurement, result: LoadResult) -> None:
        """Add requests per second, latencies and errors."""
        self.figures.add_calls(each.key, result)
        self.add_errors(each.server, result)

    def add_errors(self, name: str, result: LoadResult, allowed: Container[str] = ("OK",)) -> None:
        """Count the calls with other codes than those that are allowed."""
        for code, count in result.codes.items():
            if code not in allowed:
                self.errors[f"{name}: {code}: {result.messages.get(code, '')}"] += count

    def document(
        self, manifest: Manifest, packages: Sequence[str], targets: Sequence[Target], more: dict[str, Any]
    ) -> dict[str, Any]:
        """All figures of a test that has run, what they were measured with, and `more` of both."""
        plan, workload = self.plan, self.workload
        notes = [
            self.cores.note,
            DENSE_ALONE if workload.fusion is FusionMode.DENSE else "",
            p99_remark(self.figures.calls),
        ]
        found = {
            "machine": machine_text(),
            "cores": os.cpu_count(),
            "pinned": self.cores.servers is not None,
            "notes": [each for each in notes if each],
            "python": platform.python_version(),
            **{f"{name}_version": version(name) for name in packages},
            "bundle_version": manifest.bundle_version,
            "bundle_name": manifest.name,
            "items": manifest.count,
            "dimension": manifest.dimension,
            "index": manifest.index.describe(),
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "k": plan.k,
            "seed": plan.seed,
            "distinct_queries": len(workload.queries),
            **self.figures.document(),
            **more,
            "errors": self.errors,
            "content_checked": workload.checked,
            "content_different": workload.different,
            "content_first_difference": workload.first,
        }
        return {**found, "targets_missed": missed(targets, found)}


def workload_of(plan: Plan, fusion: FusionMode | None = None) -> tuple[Manifest, Workload]:
    """The workload of a plan's bundle, with expected answers.

    `fusion` None ranks by the vectors alone for a hybrid bundle.
    """
    retriever = Retriever.load(plan.bundle)
    manifest = retriever.manifest
    queries = query_generator.of_bundle(manifest, plan.seed)
    fusion = fusion or (FusionMode.DEFAULT if manifest.hybrid is None else FusionMode.DENSE)
    expected = expected_answers(retriever, queries, plan.k, fusion)
    del retriever  # it shares pages with the servers, whose memory would look smaller
    gc.collect()
    return manifest, Workload(queries, plan.k, expected, fusion)


def about(found: Report) -> list[str]:
    """What was measured, and how."""
    return [
        f"{found['bundle_name']}, bundle {found['bundle_version'][:12]}: {found['items']:,} items, "
        f"D = {found['dimension']}, {found['index']}",
        f"{found['machine']}; {found['rounds']} rounds of {found['seconds']:g} s, medians; "
        f"{found['distinct_queries']:,} queries; {found['content_checked']:,} answers compared",
    ]
