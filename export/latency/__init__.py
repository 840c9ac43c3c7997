"""Latency of a tower: the batches it is timed on, the timing, and how certain the result is.

Both `export.quantization`, which chooses a variant by its latency, and `export.benchmark` measure with it.
"""
