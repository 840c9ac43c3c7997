"""The caller's trace, so that what the server does for it appears under it."""

import sys


def trace_context() -> tuple[tuple[str, str], ...]:
    """`traceparent` and, where there is one, `tracestate` of the current span (W3C Trace Context).

    Nothing where the caller does not use OpenTelemetry, which is not imported to find that out.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
