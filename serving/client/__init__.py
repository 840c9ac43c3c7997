"""Typed clients of the service, and `python -m twinspire.serving.client search "a query"`.

    with RetrievalClient("127.0.0.1:50051") as client:
        answer = client.search("eigenvalues of a symmetric matrix", k=5)
        print([hit.id for hit in answer.hits])
        answer = client.search(Query(history=("296", "593")), exclude_history=True)
        answer = client.search("shoes", filter=(where.price < 50) & (where.section == "sport"))

    async with AsyncRetrievalClient("search.example.org:443", security=Security(tls=True)) as client:
        answers = await client.search_batch(["one query", "another"])

    vectors = client.encode_items([{"title": "a desk lamp"}])  # of a service with --item-tower
    client.upsert([Item("x-12", {"title": "a desk lamp"}, {"title": "A desk lamp"})])
    client.delete(["x-11"])
    client.record([Event("u7", "x-12", "click", request_id=answer.request_id, position=1)])  # with --events
    client.search(Query(user="u7"))

A client is one connection: create one and keep it, because a new connection takes a handshake. Every call has
a deadline. Errors are those of `protos/errors.py`, never those of gRPC. gRPC itself retries a call that ends
in UNAVAILABLE or RESOURCE_EXHAUSTED, within its deadline; `protocol.py` configures how often.

The package needs grpcio, protobuf and numpy alone, and the command line (`twinspire-client`) rich too.
Importing it sets no environment variable and starts nothing.
"""

from twinspire.serving.client.asynchronous import AsyncRetrievalClient
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.events import Event
from twinspire.serving.client.items import Item
from twinspire.serving.client.protocol import OPTIONS, SERVICE, SearchArguments
from twinspire.serving.client.security import Security
from twinspire.serving.filters.expression import Filter, where
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query

__all__ = [
    "OPTIONS",
    "SERVICE",
    "AsyncRetrievalClient",
    "Event",
    "Filter",
    "FusionMode",
    "Item",
    "Query",
    "RetrievalClient",
    "SearchArguments",
    "Security",
    "where",
]
