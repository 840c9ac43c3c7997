"""The load test: `python -m serving loadtest` measures the service against what it is made of.

Read in this order: `frames.py`, `outgoing.py` and `connection.py` (HTTP/2 and gRPC, for next to no processor
time); `loop.py`, `measured.py`, `closed_loop.py`, `stream.py` and `open_loop.py` (the three kinds of load);
`queries.py`, `serving/varied.py` and `content.py` (what is asked, and what the answer must be);
`reference.py`, `inprocess.py`, `cores.py` and `services.py` (what is measured, and where); `parts.py`,
`plan.py`, `rounds.py`, `overload.py`, `workers.py` (how); `figures.py`, `targets.py`, `report.py`,
`table.py`, `plot.py` (what comes of it); `progress.py`, `arguments.py` and `command.py` (the command line).

`python -m serving swaptest` swaps bundles under such load: `alias.py` (the registry), `versions.py` (which
bundle an answer is of), `swap_clients.py` and `swapping.py` (the load), `swap_report.py`, `swap_table.py` and
`swap_plot.py` (what comes of it), and `swap_test.py` (all of it).
"""
