"""More than the service bears, and as much as it should bear for long."""

import math

from serving.load import closed_loop, open_loop, services
from serving.load.cores import on
from serving.load.figures import Figures, rounded_all
from serving.load.measured import Measured
from serving.load.open_loop import Offer, Segment
from serving.load.plan import CONNECTIONS, NORMAL, Plan, Work
from serving.load.services import Service

TIMES = 10  # what the server bears
ALLOWED = {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
AROUND = 2.5  # of the seconds of a figure, before and after: percentiles of latencies want many
RECOVERY_SECONDS = 1.0
FIRST = 0.1  # of the time, after which memory is looked at: it shall not grow from there on


def seconds(plan: Plan) -> float:
    """How long it takes, without starting the server."""
    around = plan.warm_up + 2 * AROUND * plan.seconds + RECOVERY_SECONDS
    bearing = 2 * plan.rounds * (plan.seconds + plan.warm_up)
    return bearing + around + plan.overload_seconds + plan.soak_seconds


def run(work: Work, figures: Figures, errors: dict[str, int]) -> dict[str, float | None]:
    """Offer ten times what the service bears, then look whether it is itself again; then soak it.

    Args:
        work: to do.
        figures: what was measured before; its sweep may hold a higher peak than 64 clients give.
        errors: receives the calls that should not have ended as they did.

    Returns:
        the figures, by their keys in the report.
    """
    plan = work.plan
    with services.ours(plan.bundle, work.cores.servers) as server, on(work.cores.load):
        probes = Figures()
        _bear(work, server, probes)
        saturation = probes.median("rps")
        found = _overload(work, server, saturation, errors)
        _bear(work, server, probes)  # once more: a shared machine is faster in one minute than in the next
        peak = max(probes.median("rps"), *(_swept(figures, percent) for percent in (80, 90, 100, 110, 120)))
        found |= {
            "overload_peak_rps": peak,
            "overload_goodput_share": found["overload_goodput_rps"] / peak,
        }
        if plan.soak_seconds:
            found |= _soak(work, server, saturation, errors)
    return rounded_all(found)


def _bear(work: Work, server: Service, probes: Figures) -> None:
    """Add what 64 clients are answered a second, in each round."""
    for number in range(work.plan.rounds):
        work.say("what the service bears")
        plan, requests = work.plan, work.content.searches()
        bears = closed_loop.run(server.address, requests, 64, plan.seconds, plan.warm_up, number)
        probes.add(rps=bears.rps)
        work.tick(plan.seconds + plan.warm_up)


def _overload(work: Work, server: Service, saturation: float, errors: dict[str, int]) -> dict[str, float]:
    plan = work.plan
    normal, flood = NORMAL * saturation, TIMES * saturation
    segments = (
        Segment(normal, plan.warm_up),
        Segment(normal, AROUND * plan.seconds),
        Segment(flood, plan.overload_seconds, leaves=True),  # or the flood would last until its deadlines
        Segment(normal, RECOVERY_SECONDS),
        Segment(normal, AROUND * plan.seconds),
    )
    offer = Offer(segments, plan.deadline, CONNECTIONS, plan.seed)
    work.say(f"{TIMES} times as much as it bears")
    memory = [server.memory()]
    passed, begun = 0.0, plan.warm_up + AROUND * plan.seconds + FIRST * plan.overload_seconds

    def tick(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        if passed >= begun and len(memory) == 1:
            memory.append(server.memory())
        work.tick(seconds)

    _, before, over, recovering, after = open_loop.run(server.address, work.content.searches(), offer, tick)
    memory.append(server.memory())
    for name, measured in (("80 %", before), ("overload", over), ("after the overload", after)):
        measured.note(name, errors, ALLOWED if measured is over else {"OK"})
    usual = before.percentile_us(99)
    return {
        "overload_offered_rps": over.offered / over.seconds,
        "overload_goodput_rps": over.rps,
        "normal_p50_us": before.percentile_us(50),
        "normal_p99_us": usual,
        "normal_errors": sum(before.errors.values()),
        "overload_left_over": len(over.left_over),
        "overload_given_up": over.given_up,
        "overload_p50_us": over.percentile_us(50),
        "overload_p99_us": over.percentile_us(99),
        "overload_p99_ratio": over.percentile_us(99) / usual,
        **_codes(over),
        "overload_generator_lag_p99_us": over.lag_us(99),
        "overload_memory_mib": memory[-1] / 2**20,
        "overload_memory_growth": memory[-1] / memory[-2] - 1,
        "overload_memory_added_mib": (memory[-1] - memory[0]) / 2**20,
        "recovering_p99_us": recovering.percentile_us(99),
        "recovered_p99_us": after.percentile_us(99),
        "recovered_p99_ratio": after.percentile_us(99) / usual,
        "recovered_errors": sum(after.errors.values()),
    }


def _codes(over: Measured) -> dict[str, float]:
    """What became of the rest: of all that was offered, the share of each code."""
    total = max(1, over.offered)
    shares = {f"overload_{code.lower()}_share": over.codes[code] / total for code in sorted(ALLOWED)}
    others = {code: count for code, count in over.codes.items() if code not in ALLOWED}
    return {**shares, "overload_other_codes": sum(others.values())}


def _swept(figures: Figures, percent: int) -> float:
    goodput = figures.median(f"search_open{percent}_rps")
    return 0.0 if math.isnan(goodput) else goodput


def _soak(work: Work, server: Service, saturation: float, errors: dict[str, int]) -> dict[str, float]:
    """Four fifths of what it bears for long."""
    plan = work.plan
    work.say("soak")
    failed = 0
    for share in (FIRST, 1 - FIRST):
        memory = server.memory()
        span = plan.soak_seconds * share
        offer = Offer((Segment(NORMAL * saturation, span),), plan.deadline, CONNECTIONS, plan.seed + 1)
        (measured,) = open_loop.run(server.address, work.content.searches(), offer, work.tick)
        failed += sum(measured.errors.values())
        measured.note("soak", errors)
    return {
        "soak_seconds": plan.soak_seconds,
        "soak_rps": measured.rps,
        "soak_p99_us": measured.percentile_us(99),
        "soak_errors": failed,
        "soak_memory_mib": server.memory() / 2**20,
        "soak_memory_growth": server.memory() / memory - 1,
    }
