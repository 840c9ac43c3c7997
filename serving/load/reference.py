"""What the service is measured against: servers as anybody would write them with grpcio.

    python -m serving.load.reference naive --bundle .cache/bundles/3f2a9c0d1e5b --port-file /tmp/port

`naive` answers each request by itself, on one of 16 threads: one run of the ONNX query tower, one search in
the graph, one message built. `noop` reads the request and sends an answer that was made beforehand: what gRPC
alone costs. Both end when their standard input does, so that none outlives who started it.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import onnxruntime

from protos import bundle, retrieval_pb2_grpc
from protos import retrieval_pb2 as wire
from protos.bundle import Manifest, write_file
from protos.features import TextFeature
from protos.onnx_file import check_self_contained
from serving import score
from serving.catalogue import Catalogue
from serving.convert import query_from_wire
from serving.index import Index
from serving.query import QueryForm

THREADS = 16
DEFAULT_K = 10
KINDS = ("naive", "noop")


class Naive(retrieval_pb2_grpc.RetrievalServicer):
    """One query, one answer.

    Args:
        folder: of the bundle.
        manifest: of that bundle, whose files have been verified.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # it has one core
        check_self_contained(folder / bundle.QUERY_TOWER)
        self._session = onnxruntime.InferenceSession(folder / bundle.QUERY_TOWER, options)
        self._index = Index(folder, manifest)
        self._catalogue = Catalogue(folder, manifest)
        self._inputs = manifest.schema.side("query")
        self._form = QueryForm(manifest.schema.query)
        specs = manifest.schema.query
        self._text = next(iter(specs)) if [*map(type, specs.values())] == [TextFeature] else None
        self._score, self._version = manifest.score, manifest.bundle_version

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        """The k items nearest to one query."""
        columns: dict[str, Sequence[Any]]
        if self._text is not None:
            columns = {self._text: [request.query.text]}
        else:
            values = self._form.values(query_from_wire(request.query, "query"), "query")
            columns = {name: [value] for name, value in values.items()}
        vector = self._session.run(["vector"], self._inputs.to_arrays(columns))[0]
        rows, products = self._index.search(vector, request.k or DEFAULT_K)
        scores = score.shown(products, self._score)
        ids, fields = self._catalogue.ids, self._catalogue.fields
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return wire.SearchResponse(
            hits=[wire.Hit(id=ids[row], score=value, fields=fields(row)) for row, value in found],
            bundle_version=self._version,
        )


class Noop(retrieval_pb2_grpc.RetrievalServicer):
    """The same answer to everything, of the size of any other.

    Args:
        folder: of the bundle.
        manifest: of that bundle, whose files have been verified.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        catalogue = Catalogue(folder, manifest)
        hits = [
            wire.Hit(id=catalogue.ids[row], score=0.5, fields=catalogue.fields(row))
            for row in range(min(DEFAULT_K, manifest.count))
        ]
        timing = wire.Timing(queue_us=100, encode_us=100, search_us=100)
        self._answer = wire.SearchResponse(hits=hits, bundle_version=manifest.bundle_version, timing=timing)

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        """What was made beforehand."""
        return self._answer


def start(kind: str, folder: Path, port: int = 0) -> tuple[grpc.Server, int]:
    """Serve on 127.0.0.1; the server, and the port that it listens on.

    Args:
        kind: `naive` or `noop`.
        folder: of the bundle.
        port: 0 for any free one.

    Raises:
        BundleDamaged: a file of the bundle is not the one that its manifest describes.
    """
    servicer = (Naive if kind == "naive" else Noop)(folder, bundle.read(folder))
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    retrieval_pb2_grpc.add_RetrievalServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until standard input ends."""
    parser = ArgumentParser(prog="python -m serving.load.reference", description="Serve a bundle plainly.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--bundle", type=Path, required=True, help="to serve")
    parser.add_argument("--port-file", type=Path, required=True, help="write the port here once it serves")
    parsed = parser.parse_args(arguments)
    server, port = start(parsed.kind, parsed.bundle)
    write_file(parsed.port_file, f"{port}\n".encode())
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
