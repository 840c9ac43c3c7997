"""Environment variables of libraries that a server process uses; imported before those libraries.

A variable that the operator has set is left alone. Clients must not import this module.
"""

import os
import sys

# gRPC reads it when it is imported: connections are then read by the thread that answers, see
# `transport/event_loop.py`.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

# ONNX Runtime's builds for Linux report the models that they load to their maker (its docs/Privacy.md), by
# way of a database in the user's home. The operator may allow that by setting 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# gRPC logs several lines for each failed handshake. The error of a client says it; a server's log keeps them.
if sys.argv[1:2] != ["serve"]:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
