"""`python -m serving gatewaytest`: the gateway under load, beside FastAPI with the same search in process."""

from argparse import Namespace

from protos.cli import Result
from serving import bundles
from serving.benchmark import gateway_test
from serving.benchmark.gateway_test import GatewayTest
from serving.benchmark.plan import Plan
from serving.benchmark.report import progress
from serving.benchmark.rounds import workload_of
from serving.benchmark.services import choose_cores, pinned
from serving.cli.loadtest import refuse_different
from serving.retrieval.answer import FusionMode


def run(arguments: Namespace) -> Result:
    """Run the test.

    Raises:
        DataError: answers differ from the bundle's own; the report has been shown.
        MissingStage: there is no bundle.
        Unavailable: a server does not start, or does not answer.
    """
    folder = bundles.newest(arguments.bundle or bundles.BUNDLES)
    names = ("rounds", "seconds", "queries", "k", "seed")
    plan = Plan(folder, **{name: getattr(arguments, name) for name in names})
    manifest, workload = workload_of(plan, FusionMode.DEFAULT)
    cores = choose_cores()
    with progress(gateway_test.duration(plan)) as (say, tick), pinned(cores.load):
        test = GatewayTest(plan, workload, cores, say, tick)
        test.run()
    document = test.report(manifest)
    result: Result = document, lambda console: gateway_test.show(console, document)
    refuse_different(result, arguments.json)
    return result
