"""Measures the service: `python -m serving loadtest`, `gatewaytest`, `swaptest`, `filtertest` and `livetest`,
and the processes that `make bench` starts.

    load generator   http2, http1 (connections), load (closed loops), open_loop, workload (requests, answers)
    subjects         services (processes and cores), reference, http_reference (plain servers)
    rounds           plan (the lists of measurements, ratios and targets), rounds (how they are measured),
                     load_test, gateway_test, live/load_run
    swap test        alias (a registry and services that follow it), swap_test (clients, swaps)
    filter test      filter_measurement (filters of a given selectivity, recall, times)
    several          report (figures, tables, progress), plots, query_generator
    export           bundle_benchmark (bundles side by side, a retriever beside its parts, loading)

A function raises `Unavailable` where a process does not start, ends too early or does not answer in time, and
`MissingStage` where a library, a bundle or what it must hold is missing.
"""

from serving import environment  # noqa: F401  # before gRPC and ONNX Runtime are imported
