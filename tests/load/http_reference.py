"""What the gateway is compared with: FastAPI with the same search in its own process.

    python -m tests.load.http_reference BUNDLE

It is what FastAPI's tutorial leads to: pydantic checks the request, an `async` function searches on the event
loop (a pool of threads answers fewer requests on one core), and pydantic writes the answer. As the gateway it
reads HTTP with httptools and runs asyncio's event loop, also where uvloop is installed, so that the
comparison does not depend on that. It writes a line of JSON with its port, and ends when its standard input
does.
"""

from serving import environment  # noqa: F401  # before ONNX Runtime is imported

# isort: split
import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from serving.retrieval.query import Query
from serving.retrieval.retriever import Retriever
from tests.load.services import report_ready


class QueryBody(BaseModel):
    """A query."""

    text: str | None = None
    history: list[str] = []
    history_times: list[float] = []


class SearchRequest(BaseModel):
    """One query, and how many items to return."""

    query: QueryBody
    k: int = 10


class Found(BaseModel):
    """An item of an answer."""

    id: str
    score: float
    fields: dict[str, str]


class SearchResponse(BaseModel):
    """Items, best first."""

    hits: list[Found]
    bundle_version: str


def application(retriever: Retriever) -> FastAPI:
    """FastAPI that answers `POST /v1/search` from a bundle."""
    app = FastAPI()
    version = retriever.manifest.bundle_version

    @app.post("/v1/search")
    async def search(request: SearchRequest) -> SearchResponse:
        given = request.query
        times = tuple(given.history_times)
        query = Query(text=given.text, history=tuple(given.history), history_times=times)
        (found,) = retriever.search([query], request.k, exclude_history=False)
        hits = [Found(id=hit.id, score=hit.score, fields=dict(hit.fields)) for hit in found.hits]
        return SearchResponse(hits=hits, bundle_version=version)

    return app


def configuration(app: FastAPI) -> uvicorn.Config:
    """Uvicorn's settings, whose parser and event loop are those of the gateway."""
    return uvicorn.Config(
        app, log_level="error", access_log=False, ws="none", http="httptools", loop="asyncio"
    )


async def _serve(app: FastAPI, listener: socket.socket) -> None:
    server = uvicorn.Server(configuration(app))
    serving = asyncio.create_task(server.serve([listener]))
    report_ready(port=listener.getsockname()[1])
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


def main(arguments: Sequence[str]) -> None:
    """Serve until standard input ends."""
    (folder,) = arguments
    logging.basicConfig(level=logging.WARNING)
    app = application(Retriever.load(Path(folder)))
    # With a socket that names its protocol, as uvicorn's own, asyncio turns Nagle's algorithm off.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        asyncio.run(_serve(app, listener))


if __name__ == "__main__":
    main(sys.argv[1:])
