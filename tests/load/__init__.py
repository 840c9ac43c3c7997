"""Measures the service under load: `python -m tests.load COMMAND`.

    load generator   http1 (connections; those of HTTP/2 are in tests/helpers/serving), load (closed loops),
                     open_loop, workload (requests, answers)
    subjects         services (processes and cores), reference (plain servers)
    rounds           plan (the lists of measurements, ratios and targets), rounds (how they are measured),
                     measure_load, measure_gateway, live/load_run
    swap test        alias (a registry and services that follow it), measure_swap (clients, swaps)
    several          report (figures, tables, progress)
    command line     cli

A function raises `Unavailable` where a process does not start, ends too early or does not answer in time, and
`MissingStage` where a library, a bundle or what it must hold is missing.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC and ONNX Runtime are imported
