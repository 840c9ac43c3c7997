"""Latency of a tower: the batches it is timed on, the timing, and how certain the result is.

`export.benchmark` measures with it.
"""
