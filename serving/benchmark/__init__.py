"""Measures bundles for `make bench`, whose processes are started by `export`.

A function raises `MissingStage` where a library, a bundle or what it must hold is missing.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC and ONNX Runtime are imported
