"""From a training run to a released bundle; see README.md in this folder."""

import os

# Keeps ONNX Runtime from sending telemetry about the models that it loads, as in `serving/__init__.py`.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
