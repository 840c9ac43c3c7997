"""Clients and stubs of servers in the process of the test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.client import RetrievalClient
from twinspire.serving.config import ServiceConfig
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.server import RetrievalServer
from twinspire.serving.wire.converters import RequestLimits

NO_FOLDER = Path("nowhere")  # of a server whose bundle is in memory


def configured(**chosen: Any) -> ServiceConfig:
    """The configuration of a server whose bundle is in memory."""
    return ServiceConfig(NO_FOLDER, **chosen)


@contextmanager
def client_of(folder: Path) -> Iterator[RetrievalClient]:
    """A client of a server on the bundle in a folder; both end with the block."""
    with (
        RetrievalServer(Retriever.load(folder)) as server,
        RetrievalClient(server.address, timeout=30) as client,
    ):
        yield client


@contextmanager
def client_on(
    served: Retriever | LoadedBundle,
    limits: RequestLimits | None = None,
    retries: bool = True,
    **options: Any,
) -> Iterator[RetrievalClient]:
    """A client of a server with these limits and options of `RetrievalServer`; both end with the block."""
    config = configured(limits=limits or RequestLimits())
    with (
        RetrievalServer(served, config, **options) as server,
        RetrievalClient(server.address, retries=retries) as client,
    ):
        yield client


@contextmanager
def stub_of(address: str) -> Iterator[Any]:
    """A stub for what the typed client would never send, on a connection of its own."""
    with grpc.insecure_channel(address) as channel:
        yield retrieval_pb2_grpc.RetrievalStub(channel)
