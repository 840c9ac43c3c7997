"""Reads of the collection of one bundle on a Milvus server.

The first read connects, and checks the collection, which never changes afterwards. Every answer has to see
what was written before that check, so reads pass a timestamp that the server gave after it: they are strongly
consistent, without the wait for the server's next clock tick (200 ms) that the level "Strong" takes.

gRPC repeats a read that finds no server, a few times within the read's own time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import InvalidInput
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import check_collection, collection_name
from twinspire.protos.vector_databases.milvus import (
    DISPLAY,
    ID,
    MAX_K,
    PART,
    PARTS,
    QUERIES,
    VECTOR,
    MilvusDatabase,
    MilvusServer,
    import_client,
    literal,
    search_params,
    server_errors,
)
from twinspire.serving.filters.expression import Filter
from twinspire.serving.index.filter_text import Syntax
from twinspire.serving.index.remote import Once, RemoteHit, RemoteItem, Vectors, seconds_left

IDS = 1000  # items that are asked for by their ids at once
_REFUSED = ("cannot parse expression", "failed to create query plan")  # in errors that refuse an expression


class MilvusCollection:
    """The collection of one bundle; implements `RemoteCollection`, and is safe to call from several threads.

    The first read connects; so it comes after a fork, which the threads of a connection would not survive.

    Raises:
        ConfigError: the environment does not name the server.
        PackageMissing: the extra `milvus` is not installed.
    """

    max_k = MAX_K

    def __init__(self, manifest: Manifest) -> None:
        self.name, self._manifest = collection_name(manifest.bundle_version), manifest
        self._server = MilvusServer.from_environment()
        import_client()  # once before a fork, and not by a worker's first search
        self._once = Once(MilvusDatabase.title)
        self._client: Any = None
        self._consistency: dict[str, Any] = {}

    def expression(self, node: Filter) -> str:
        """As `RemoteCollection.expression`."""
        return SYNTAX.expression(node, self._manifest.filters)

    def search(
        self, vectors: Vectors, k: int, expression: str = "", is_exact: bool = False
    ) -> list[list[RemoteHit]]:
        """As `RemoteCollection.search`; an exact one is a search of each part of the collection."""
        client, among = self._connected(), [expression]
        if is_exact:
            passing = f"({expression}) and " if expression else ""
            among = [f"{passing}{PART} == {part}" for part in range(PARTS)]
        with _errors():
            # Without pymilvus's own repetitions, which may take twice the time that they are given.
            asked = [
                client.search(
                    self.name,
                    data=[*vectors[start : start + QUERIES]],
                    filter=each,
                    limit=k,
                    output_fields=[ID, DISPLAY],
                    search_params=search_params(self._manifest.index, k),
                    timeout=seconds_left(),
                    _async=True,
                    **self._consistency,
                )
                for each in among
                for start in range(0, len(vectors), QUERIES)
            ]
            answers = iter([future.result() for future in asked])
        found: list[list[Any]] = [[] for _ in vectors]
        for _ in among:
            for start in range(0, len(vectors), QUERIES):
                for hits, more in zip(found[start:], next(answers), strict=False):
                    hits += more
        for hits in found:
            hits.sort(key=lambda each: -each["distance"])
        return [[(_item(each["entity"]), each["distance"]) for each in hits[:k]] for hits in found]

    def get(self, item_ids: Sequence[str]) -> dict[str, RemoteItem]:
        """As `RemoteCollection.get`."""
        client, found = self._connected(), {}
        texts = [text for item_id in dict.fromkeys(item_ids) if (text := literal(item_id)) is not None]
        for start in range(0, len(texts), IDS):
            wanted = f"{ID} in [{', '.join(texts[start : start + IDS])}]"
            for each in self._query(client, wanted, [ID, DISPLAY, VECTOR]):
                found[each[ID]] = _item(each, np.asarray(each[VECTOR], np.float32))
        return found

    def count(self, expression: str) -> int:
        """As `RemoteCollection.count`."""
        return int(self._query(self._connected(), expression, ["count(*)"])[0]["count(*)"])

    def _query(self, client: Any, expression: str, fields: list[str]) -> Any:
        with _errors():
            return client.query(
                self.name,
                filter=expression,
                output_fields=fields,
                timeout=seconds_left(),
                **self._consistency,
            )

    def _connected(self) -> Any:
        """The client of this process; connects it, and checks the collection, if it is not connected yet.

        Raises:
            BundleDamaged: the collection is missing, or is not the bundle's.
            Unavailable: the server does not answer in the time that is left.
        """
        self._once.run(self._connect)
        return self._client

    def _connect(self) -> None:
        client = self._server.connect(seconds_left())
        check_collection(MilvusDatabase(client), self.name, self._manifest, seconds_left())
        self._consistency = _consistency(client, self._server.is_file)
        self._client = client


COLLECTION = MilvusCollection


def _any_of(n: int, kind: str, literals: Sequence[str]) -> str:
    if KINDS[kind].is_list:
        return "(" + " or ".join(f"array_contains(f{n}, {text})" for text in literals) + ")"
    if KINDS[kind].dtype is np.int8:  # servers differ in whether a list may hold booleans
        return "(" + " or ".join(f"f{n} == {text}" for text in literals) + ")"
    return f"f{n} in [{', '.join(literals)}]"


SYNTAX = Syntax(
    never=f'{ID} < ""',
    present=lambda n: f"has{n} == true",
    absent=lambda n: f"has{n} == false",
    literal=literal,
    any_of=_any_of,
)


def _consistency(client: Any, is_file: bool) -> dict[str, Any]:
    """Arguments with which a read sees all earlier writes: a timestamp of the server, or "Strong"."""
    try:
        now = 0 if is_file else client._get_connection().alloc_timestamp(timeout=seconds_left())
    except Exception:  # a server without timestamps, or another version of pymilvus
        now = 0
    return (
        {"consistency_level": "Customized", "guarantee_timestamp": now}
        if now
        else {"consistency_level": "Strong"}
    )


@contextmanager
def _errors() -> Iterator[None]:
    """As `server_errors`, and `InvalidInput` where the server does not take an expression."""
    import grpc
    from pymilvus.exceptions import MilvusException

    with server_errors():
        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            if any(each in str(error) for each in _REFUSED):
                raise InvalidInput("filter", "the Milvus server does not take it as an expression") from None
            raise


def _item(fields: Mapping[str, Any], vector: Vectors | None = None) -> RemoteItem:
    return RemoteItem(str(fields[ID]), json.loads(fields[DISPLAY]), vector)
