"""Two workers against one, the load on the same two cores as they."""

from serving.load import closed_loop, services
from serving.load.cores import on
from serving.load.figures import Figures
from serving.load.plan import CONNECTIONS, STARTING, Plan, Work

NAMES = {1: "one_worker", 2: "two_workers"}


def seconds(plan: Plan) -> float:
    """How long it takes."""
    return plan.rounds * len(NAMES) * (STARTING + plan.seconds + plan.warm_up)


def run(work: Work, figures: Figures) -> None:
    """Measure either alone, in turn: what two services share in memory would be counted as half of each.

    Args:
        work: to do.
        figures: receives the values.
    """
    plan = work.plan
    for number in range(plan.rounds):
        for workers in NAMES if number % 2 == 0 else reversed(NAMES):
            work.say(f"round {number + 1} of {plan.rounds}: {NAMES[workers].replace('_', ' ')}")
            with (
                services.ours(plan.bundle, work.cores.both, workers) as server,
                on(work.cores.both),
            ):
                work.tick(STARTING)
                requests = work.content.searches()
                measured = closed_loop.run(
                    server.address, requests, CONNECTIONS, plan.seconds, plan.warm_up, number
                )
                figures.add_calls(NAMES[workers], measured)
                figures.add(**{f"{NAMES[workers]}_pss_mib": server.memory() / 2**20})
                figures.add(**{f"{NAMES[workers]}_errors": sum(measured.errors.values())})
                work.tick(plan.seconds + plan.warm_up)
    figures.divide("two_workers_ratio", "two_workers_rps", "one_worker_rps")
    figures.divide("two_workers_pss_ratio", "two_workers_pss_mib", "one_worker_pss_mib")
