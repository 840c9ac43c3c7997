"""The report of a load test: one flat document."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serving.load import overload, targets, workers
from serving.load.content import Content
from serving.load.figures import Figures
from serving.load.plan import CLIENTS, CONNECTIONS, OFFERED, STARTING, Plan, Work
from serving.load.rounds import BATCHES, SIZES, Rounds

PACKAGES = ("grpcio", "hnswlib", "onnxruntime", "numpy", "protobuf")
CPUINFO = Path("/proc/cpuinfo")
UNCOMPARED = (
    "answers were not compared with the bundle's own: "
    "its query tower computes in int8, so scores depend on the batch"
)


def seconds(plan: Plan) -> float:
    """About how long a plan takes."""
    parts, one = plan.parts, plan.seconds + plan.warm_up
    cells = 3 * len(CLIENTS) if "closed" in parts else 2 if "open" in parts else 0
    cells += len(BATCHES) + 1 if "batch" in parts else 0
    found = plan.rounds * cells * one
    without = len(SIZES) + ("closed" in parts)
    found += plan.rounds * without * plan.seconds if {"closed", "batch"} & {*parts} else 0.0
    found += plan.rounds * 2 * len(OFFERED) * one if "open" in parts else 0.0
    found += STARTING + overload.seconds(plan) if "overload" in parts else 0.0
    found += workers.seconds(plan) if "workers" in parts else 0.0
    return found


def measure(work: Work, bundle_version: str) -> dict[str, Any]:
    """Do all that the plan asks for.

    Args:
        work: to do.
        bundle_version: that is served.

    Raises:
        Unavailable: a server does not come up, or is gone before its time.
    """
    parts, figures = work.plan.parts, Figures()
    document: dict[str, Any] = {}
    rounds = Rounds(work, figures)
    if {"closed", "batch", "open"} & {*parts}:
        rounds.run()
    if "overload" in parts:
        document |= overload.run(work, figures, rounds.errors)
    if "workers" in parts:
        workers.run(work, figures)
    report = {
        **_about(work, bundle_version),
        **figures.document(),
        **document,
        "errors": rounds.errors,
        **_content(work.content),
    }
    return {**report, "targets_missed": targets.missed(report)}


def _about(work: Work, bundle_version: str) -> dict[str, Any]:
    plan = work.plan
    return {
        "machine": machine(),
        "cores": os.cpu_count(),
        "pinned": work.cores.servers is not None,
        "notes": [each for each in (work.cores.note, "" if work.content.is_compared else UNCOMPARED) if each],
        "python": platform.python_version(),
        **{f"{name}_version": version(name) for name in PACKAGES},
        "bundle_version": bundle_version,
        "parts": list(plan.parts),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "deadline_seconds": plan.deadline,
        "overload_seconds": plan.overload_seconds,
        "connections": CONNECTIONS,
        "k": plan.k,
        "seed": plan.seed,
        "distinct_queries": work.content.distinct,
    }


def _content(content: Content) -> dict[str, Any]:
    return {
        "content_checked": content.checked,
        "content_different": content.different,
        "content_first_difference": content.first,
    }


def machine() -> str:
    """The processor and the system."""
    names = []
    if CPUINFO.is_file():
        lines = CPUINFO.read_text(errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {platform.system()}"
