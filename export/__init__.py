"""From a run to a released bundle: graphs, parity, latency, vectors, index, assembly, registry."""

import os

# As in `serving/__init__.py`: ONNX Runtime shall tell nobody of the models that it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
