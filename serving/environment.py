"""Environment variables of libraries that a server process uses; imported before those libraries.

A variable that the operator has set is left alone. Clients must not import this module.
"""

import os
import sys
from pathlib import Path

# gRPC reads it when it is imported: connections are then read by the thread that answers, see
# `engine/event_loop.py`. A gateway's connections to the service are read by the one thread that waits for
# them, not by a pool of threads: a call then takes a quarter less processor time.
SERVICE_EXPERIMENTS = "-event_engine_listener"
GATEWAY_EXPERIMENTS = f"{SERVICE_EXPERIMENTS},-event_engine_client"
program = Path(sys.argv[0])  # with `python -m`, the module's file
is_gateway = sys.argv[1:2] == ["gateway"] or (
    program.name == "twinspire-gateway" or program.parts[-2:] == ("gateway", "__main__.py")
)
os.environ.setdefault("GRPC_EXPERIMENTS", GATEWAY_EXPERIMENTS if is_gateway else SERVICE_EXPERIMENTS)

# ONNX Runtime's builds for Linux report the models that they load to their maker (its docs/Privacy.md), by
# way of a database in the user's home. The operator may allow that by setting 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# gRPC logs several lines for each failed handshake. The error of a client says it; a server's log keeps them,
# unless all lines have to be JSON.
if os.environ.get("TWINSPIRE_LOG_FORMAT") == "json":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
elif sys.argv[1:2] != ["serve"]:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
