"""The front of the engine that speaks gRPC: `core.py` wraps grpcio's C core, and has its options.

`connection_monitor.py` closes connections that take a worker's room or time and make no calls.
"""
