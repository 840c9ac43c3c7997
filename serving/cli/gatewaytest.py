"""`python -m serving gatewaytest`: the gateway under load, beside FastAPI with the same search in process."""

from argparse import Namespace

from protos.cli import Result
from serving.benchmark import gateway_test
from serving.benchmark.gateway_test import GatewayTest
from serving.benchmark.plan import Plan
from serving.cli.benchmark_commands import different_answers, result_or_failure, run_rounds, tested_folder
from serving.retrieval.answer import FusionMode


def run(arguments: Namespace) -> Result:
    """Run the test.

    Raises:
        DataError: answers differ from the bundle's own; the report has been shown.
        MissingStage: there is no bundle.
        Unavailable: a server does not start, or does not answer.
    """
    names = ("rounds", "seconds", "queries", "k", "seed")
    plan = Plan(tested_folder(arguments), **{name: getattr(arguments, name) for name in names})
    test, manifest = run_rounds(plan, GatewayTest, gateway_test.duration(plan), FusionMode.DEFAULT)
    document = test.report(manifest)
    result: Result = document, lambda console: gateway_test.show(console, document)
    return result_or_failure(result, arguments, different_answers(document))
