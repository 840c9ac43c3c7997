"""A bundle in, answers out: `python -m serving serve`, then `python -m serving search "a query"`.

`README.md` in this folder describes the processes, the flow of a query, and the packages.
"""
