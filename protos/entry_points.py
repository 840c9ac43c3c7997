"""Modules that a process of one stage starts by `python -m` in a process of its own.

Stages do not import each other upwards, so these names are the contract between them: a module that moves is
renamed here, and nowhere else. Each of them answers `--help`, or refuses input that it does not understand
with an error and no traceback.
"""

import sys

EXPORT = "twinspire.export"  # the command line of export: `refresh`, `promote`, ...
SERVING = "twinspire.serving"  # the command line of the service: `serve`, `search`, ...
BUNDLES = "twinspire.serving.bundles"  # downloads a registered model's bundle; prints its folder
CATALOGUE = "twinspire.serving.catalogue"  # reads and compacts a store of live items; prints JSON
EVENTS = "twinspire.serving.events"  # exports and deletes events of users; prints JSON
EVENTS_VARIABLE = "TWINSPIRE_EVENTS"  # the environment variable with the URL of its store
REGISTRY = "twinspire.serving.rollout.registry"  # answers calls to MLflow's registry over a descriptor
BUNDLE_VALIDATION = "twinspire.serving.rollout.bundle_validation"  # loads and tries a bundle; prints JSON
BUNDLE_BENCHMARK = (
    "twinspire.serving.benchmark.bundle_benchmark"  # measures bundles and their retriever; prints JSON
)
BENCHMARK_STEP = "step: "  # prefix of the lines of JSON by which it names each step on standard error

ALL = (EXPORT, SERVING, BUNDLES, CATALOGUE, EVENTS, REGISTRY, BUNDLE_VALIDATION, BUNDLE_BENCHMARK)


def command(module: str, *arguments: str) -> list[str]:
    """The command line that starts an entry point with this Python."""
    return [sys.executable, "-m", module, *arguments]
