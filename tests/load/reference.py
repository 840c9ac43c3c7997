"""What the service is compared with: two plain servers, each in a process of its own.

    python -m tests.load.reference naive BUNDLE
    python -m tests.load.reference noop BUNDLE

`naive` is a plain grpcio server: a pool of 16 threads, and for each request one run of the query tower, one
search and one response. `noop` returns a constant response of the usual size: the cost of gRPC alone. Both
write a line of JSON with their port, and end when their standard input does, so none outlives the process
that started it.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import onnxruntime

from tests.load.services import report_ready
from twinspire.protos import bundle, retrieval_pb2_grpc
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import Manifest
from twinspire.protos.features import TextFeature
from twinspire.protos.files.onnx_file import check_self_contained
from twinspire.protos.nearest.search import search_each
from twinspire.serving.retrieval.query import QueryForm
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.vector_index import Neighbours, Vectors, open_index, shown_scores
from twinspire.serving.wire.converters import query_from_wire

THREADS = 16
DEFAULT_K = 10


class Naive(retrieval_pb2_grpc.RetrievalServicer):
    """Answers each request by itself, from a bundle whose files have been verified."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the server has one core
        check_self_contained(folder / bundle.QUERY_TOWER)
        self._session = onnxruntime.InferenceSession(folder / bundle.QUERY_TOWER, options)
        self._index = open_index(folder, manifest)
        self._catalogue = Catalogue(folder, manifest)
        self._inputs = manifest.schema.side("query")
        self._form = QueryForm(manifest.schema.query)
        specs = manifest.schema.query
        self._text = next(iter(specs)) if [*map(type, specs.values())] == [TextFeature] else None
        self._manifest = manifest

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        """The k nearest items of one query."""
        columns: dict[str, Sequence[Any]]
        if self._text is not None:
            columns = {self._text: [request.query.text]}
        else:
            values = self._form.values(query_from_wire(request.query, "query"), "query")
            columns = {name: [value] for name, value in values.items()}
        vector = self._session.run(["vector"], self._inputs.to_arrays(columns))[0]
        rows, products = self._search(vector, request.k or DEFAULT_K)
        scores = shown_scores(products, self._manifest.score)
        ids, fields = self._catalogue.ids, self._catalogue.fields
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return wire.SearchResponse(
            hits=[wire.Hit(id=ids[row], score=value, fields=fields(row)) for row, value in found],
            bundle_version=self._manifest.bundle_version,
        )

    def _search(self, vector: Vectors, k: int) -> Neighbours:
        index, dimension = self._index, self._manifest.dimension
        if vector.shape[1] == dimension:
            return index.search(vector, k)
        found = search_each(lambda each: index.search(each, k).rows, index.vectors, vector, dimension, k)
        ((best, products),) = found
        return Neighbours(best[None], products[None])


class Noop(retrieval_pb2_grpc.RetrievalServicer):
    """Returns one constant response."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        catalogue = Catalogue(folder, manifest)
        hits = [
            wire.Hit(id=catalogue.ids[row], score=0.5, fields=catalogue.fields(row))
            for row in range(min(DEFAULT_K, manifest.count))
        ]
        timing = wire.Timing(queue_us=100, encode_us=100, search_us=100)
        self._answer = wire.SearchResponse(hits=hits, bundle_version=manifest.bundle_version, timing=timing)

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        return self._answer


def start(kind: str, folder: Path) -> tuple[grpc.Server, int]:
    """Serve a bundle on a free port of 127.0.0.1; returns the server, `naive` or `noop`, and its port."""
    servicer = (Naive if kind == "naive" else Noop)(folder, bundle.read(folder))
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    retrieval_pb2_grpc.add_RetrievalServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main(arguments: Sequence[str]) -> None:
    kind, folder = arguments
    server, port = start(kind, Path(folder))
    report_ready(port=port)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main(sys.argv[1:])
