"""A bundle in, answers out: `python -m serving serve`, then `python -m serving search "a query"`.

Read in this order: `query.py` and `answer.py` (what is asked and answered), `encoder.py` (query to
vector), `index.py` (vector to rows), `catalogue.py` (rows to items), `retriever.py` (all of that,
without a transport); then the transport around it: `limits.py`, `convert.py`, `status.py`,
`servicer.py`, `server.py`; then those who use it: `client.py`, `loadtest.py`, `commands.py`.
`bundles.py` finds what is to be served, and `pyfunc_model.py` is the same retriever inside
`mlflow.pyfunc`.
"""
