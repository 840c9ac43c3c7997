"""Measures bundles for `make bench`, whose processes are started by `export`.

    bundle_benchmark     bundles side by side, loading
    filter_measurement   filters of a given selectivity, and their recall

A function raises `MissingStage` where a library, a bundle or what it must hold is missing.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC and ONNX Runtime are imported
