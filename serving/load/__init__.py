"""The load test: `python -m serving loadtest` measures the service against what it is made of.

Read in this order: `frames.py`, `outgoing.py` and `connection.py` (HTTP/2 and gRPC, for next to no processor
time); `loop.py`, `measured.py`, `closed_loop.py`, `stream.py` and `open_loop.py` (the three kinds of load);
`queries.py` and `content.py` (what is asked, and what the answer must be); `reference.py`, `inprocess.py`,
`cores.py` and `services.py` (what is measured, and where); `parts.py`, `plan.py`, `rounds.py`, `overload.py`,
`workers.py` (how); `figures.py`, `targets.py`, `report.py`, `table.py`, `plot.py` (what comes of it);
`arguments.py` and `command.py` (the command line).
"""
