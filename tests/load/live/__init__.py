"""Measures live items: `python -m tests.load livetest`.

items           makes items, each with a text of its own, and writes them in a process
history         what threads wrote and saw, and the check of it
traffic         these threads
history_run     traffic while processes are killed and bundles swapped
swap_run        swaps with many live items
load_run        throughput with live items and while they are written, and the times of writes
report          figures and targets
"""
