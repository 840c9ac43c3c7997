"""`python -m tests.load gatewaytest`: the gateway beside FastAPI with the same search in process."""

from argparse import Namespace

from protos.cli import Result
from serving.retrieval.answer import FusionMode
from tests.load import measure_gateway
from tests.load.cli.steps import different_answers, result_or_failure, run_rounds, tested_folder
from tests.load.measure_gateway import GatewayTest
from tests.load.plan import Plan


def run(arguments: Namespace) -> Result:
    """Run the test.

    Raises:
        DataError: answers differ from the bundle's own; the report has been shown.
        MissingStage: there is no bundle.
        Unavailable: a server does not start, or does not answer.
    """
    names = ("rounds", "seconds", "queries", "k", "seed")
    plan = Plan(tested_folder(arguments), **{name: getattr(arguments, name) for name in names})
    test, manifest = run_rounds(plan, GatewayTest, measure_gateway.duration(plan), FusionMode.DEFAULT)
    document = test.report(manifest)
    result: Result = document, lambda console: measure_gateway.show(console, document)
    return result_or_failure(result, arguments, different_answers(document))
