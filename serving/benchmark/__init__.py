"""Measures the service: `python -m serving loadtest`, `swaptest` and `filtertest`, and the processes that
`make bench` starts.

    load generator   http2 (connections), load (closed loop, stream, open loop), workload (requests, answers)
    subjects         services (processes and cores), reference (plain servers, and no server at all)
    load test        plan (the lists of measurements, ratios and targets), load_test, load_report
    swap test        alias (a registry), swap_load (clients and swaps), swap_report
    filter test      filter_workload (filters of a given selectivity), filter_measurement (recall, times)
    several          report (figures, tables, progress), plots, query_generator
    export           bundle_benchmark (bundles side by side, a retriever beside its parts, loading)
"""

from serving import environment  # noqa: F401  # before gRPC and ONNX Runtime are imported
