"""A bundle in, answers out: `twinspire-serving serve`, then `twinspire-serving search "a query"`.

`README.md` in this folder describes the processes, the flow of a query, and the packages.
"""
