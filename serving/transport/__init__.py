"""gRPC on one thread.

`grpc_core.py` wraps gRPC's C core, `event_loop.py` polls it, `admission.py` accepts or refuses calls,
`call.py` is a call and its methods, `batching.py` answers jobs, `converters.py` reads and writes messages,
and `connection_monitor.py` closes connections that make no calls.
"""
