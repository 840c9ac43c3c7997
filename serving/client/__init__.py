"""Typed clients of the service, and `python -m serving.client search "a query"`.

    with RetrievalClient("127.0.0.1:50051") as client:
        answer = client.search("eigenvalues of a symmetric matrix", k=5)
        print([hit.id for hit in answer.hits])
        answer = client.search(Query(history=("296", "593")), exclude_history=True)

    async with AsyncRetrievalClient("search.example.org:443", security=Security(tls=True)) as client:
        answers = await client.search_batch(["one query", "another"])

A client is one connection: make one and keep it, for a new one costs a handshake. Every call has a
deadline. The errors are those of `protos/errors.py`, never those of gRPC. gRPC itself repeats a call
that ends in UNAVAILABLE or RESOURCE_EXHAUSTED, within its deadline; `channel.py` says how often.

Read in this order: `security.py`, `trace.py` and `channel.py` (what both clients are made of),
`messages.py` (what goes over the wire), `blocking.py`, `asynchronous.py`; then `queries.py` and
`batch.py` (a file of queries), `arguments.py` and `commands.py` (the command line).
"""

from serving.client.asynchronous import AsyncRetrievalClient
from serving.client.blocking import RetrievalClient
from serving.client.channel import OPTIONS, SERVICE
from serving.client.security import Security

__all__ = ["OPTIONS", "SERVICE", "AsyncRetrievalClient", "RetrievalClient", "Security"]
