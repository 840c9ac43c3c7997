"""The front of the engine that speaks gRPC: `core.py` wraps grpcio's C core, and `options.py` configures it.

`connection_monitor.py` closes connections that take a worker's room or time and make no calls.
"""
