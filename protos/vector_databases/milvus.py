"""A Milvus server: how it is named, connected and asked, and how the collections of bundles are named.

    TWINSPIRE_MILVUS_URI        http://host:19530, or https://...; a file that ends in .db for milvus-lite
    TWINSPIRE_MILVUS_TOKEN      user:password, or a key; may be absent
    TWINSPIRE_MILVUS_DATABASE   may be absent

The collection of a bundle, which `milvus_collection.py` writes, is named by the bundle's version:

    id        the item's id
    vector    float32 (D,): the item's vector
    display   the item's display fields as JSON: {"<field>": "<text>"}, without those that it lacks
    f<n>      the value of filter field n, counted from 0 in ascending order of the names
    has<n>    whether the item has a value of it: a filter must tell "absent" from every value
    part      int8: one of `PARTS`, each with an equal share of the items. The graph of a server may find too
              few items that pass a filter, whatever ef. Servers compare all that pass where they are fewer
              than 7 %, so searches of each part together are exact

The server's address and the credentials come from the environment alone: no bundle, log or error holds them.
`pymilvus` is imported by the functions that need it, because that takes half a second.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from twinspire.protos import names
from twinspire.protos.bundle import MANIFEST, IndexParameters, Manifest
from twinspire.protos.errors import BundleDamaged, ConfigError, PackageMissing, Unavailable

URI, TOKEN, DATABASE = "TWINSPIRE_MILVUS_URI", "TWINSPIRE_MILVUS_TOKEN", "TWINSPIRE_MILVUS_DATABASE"
PREFIX = "twinspire_"
DRAFT_DIGITS = 32  # of a bundle's version, in the name of a draft
ID, VECTOR, DISPLAY, PART = "id", "vector", "display", "part"
PARTS = 20
MAX_BYTES = 65_535  # of a string in a collection
HNSW_TYPE, FLAT_TYPE = "HNSW", "FLAT"
INDEX_TYPES = (HNSW_TYPE, FLAT_TYPE)  # `index.options.type` of a manifest; FLAT compares all items
MAX_K = 16_384  # items that one search returns at most
CONNECT_SECONDS, WRITE_SECONDS = 5.0, 600.0
# gRPC's own retries, within the time of a call. A server that has come back is found within a second.
CHANNEL: dict[str, Any] = {
    "grpc.enable_retries": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.service_config": (
        '{"methodConfig": [{"name": [{"service": "milvus.proto.milvus.MilvusService"}], "retryPolicy": '
        '{"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2, '
        '"retryableStatusCodes": ["UNAVAILABLE"]}}]}'
    ),
}
_READ_BY_ALL = "\t\n\r"  # control characters whose escapes all servers read
_ADDRESS = re.compile(r"(https?|tcp)://(\[[0-9a-fA-F:]+\]|[^\s/@:?#]+)(:[0-9]{1,5})?/?")
_COLLECTION = re.compile(rf"{PREFIX}([0-9a-f]{{64}})")
_DRAFT = re.compile(rf"{PREFIX}draft_([0-9a-f]{{{DRAFT_DIGITS}}}|index)_([0-9a-f]{{8}})[0-9a-f]{{8}}")


@dataclass(frozen=True)
class MilvusServer:
    """The Milvus server that the environment names; `repr` shows neither address nor credentials."""

    uri: str = field(repr=False)
    token: str = field(default="", repr=False)
    database: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "MilvusServer":
        """The server of the environment's variables.

        Raises:
            ConfigError: a variable is missing, or is not what it should be; its value is not shown.
        """
        uri = environment.get(URI, "").strip()
        if not uri:
            raise ConfigError(f"{URI}: required for an index of kind milvus, such as http://127.0.0.1:19530")
        if not (uri.endswith(".db") or _ADDRESS.fullmatch(uri)):
            raise ConfigError(
                f"{URI}: expected http://host:port or https://host:port, or a file that ends in .db; user "
                f"and password belong into {TOKEN}"
            )
        return cls(uri, environment.get(TOKEN, "").strip(), environment.get(DATABASE, "").strip())

    @property
    def is_file(self) -> bool:
        """Whether it is milvus-lite, in this process."""
        return self.uri.endswith(".db")

    def connect(self, seconds: float = CONNECT_SECONDS) -> Any:
        """A client of the server: a `pymilvus.MilvusClient`.

        Args:
            seconds: in which the server has to answer.

        Raises:
            PackageMissing: pymilvus is not installed.
            Unavailable: the server does not answer, or refuses the credentials.
        """
        pymilvus = import_client()
        kept = {name: value for name, value in (("token", self.token), ("db_name", self.database)) if value}
        with server_errors():
            return pymilvus.MilvusClient(self.uri, timeout=seconds, grpc_options=CHANNEL, **kept)


def import_client() -> Any:
    """The package `pymilvus`, which takes half a second; nothing is connected yet.

    Raises:
        PackageMissing: it is not installed.
    """
    try:
        pymilvus = import_module("pymilvus")
    except ModuleNotFoundError as error:
        raise PackageMissing(f"an index of kind milvus needs {error.name}: pip install .[milvus]") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors show the server's address
    return pymilvus


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise errors of pymilvus and of gRPC as `Unavailable`, without their texts, which show the address."""
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        raise Unavailable(f"Milvus ({URI}) {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """What is wrong with the server, by the code of an error of pymilvus or gRPC: texts show addresses."""
    for each in (error, error.__cause__):
        code: Any = getattr(each, "code", None)
        code = code() if callable(code) else code
        if name := getattr(code, "name", None):
            return f"does not answer: {name}"
    code = getattr(error, "code", None)
    return f"does not answer: error {code}" if isinstance(code, int) else "does not answer"


def collection_name(version: str) -> str:
    """The collection of a bundle, by the bundle's version."""
    return f"{PREFIX}{names.bundle_version(version)}"


def bundle_of(collection: str) -> str | None:
    """The version of a collection's bundle; None if the collection is not one of a bundle."""
    found = _COLLECTION.fullmatch(collection)
    return found[1] if found else None


def draft_seconds(collection: str) -> int | None:
    """When the writing of a collection began, in Unix seconds; None if it is not a draft."""
    found = _DRAFT.fullmatch(collection)
    return int(found[2], 16) if found else None


def index_type(parameters: IndexParameters) -> str:
    """The type of the index in Milvus: one of `INDEX_TYPES`.

    Raises:
        BundleDamaged: the manifest names another one.
    """
    found = parameters.options.get("type", HNSW_TYPE)
    if found not in INDEX_TYPES:
        raise BundleDamaged(
            f"{MANIFEST}: index.options.type: expected one of {', '.join(INDEX_TYPES)}, got {found!r}"
        )
    return str(found)


def search_params(parameters: IndexParameters, k: int) -> dict[str, Any]:
    """What a search for `k` items passes to Milvus."""
    if index_type(parameters) == FLAT_TYPE:
        return {"params": {}}
    return {"params": {"ef": max(parameters.ef_search, 2 * k)}}


def literal(text: str) -> str | None:
    """A string as a part of an expression; None if a collection cannot hold it.

    All servers read the escapes of quotes, backslashes, tabs and line ends alike. So no collection holds
    strings with other control characters, and none holds more than `MAX_BYTES` or lone surrogates.
    """
    if any(ord(each) < 32 and each not in _READ_BY_ALL for each in text):
        return None
    try:
        is_held = len(text.encode()) <= MAX_BYTES
    except UnicodeEncodeError:
        return None
    return json.dumps(text, ensure_ascii=False) if is_held else None


def expected_fields(manifest: Manifest) -> set[str]:
    """The names of the fields of a bundle's collection."""
    return {
        ID,
        VECTOR,
        DISPLAY,
        PART,
        *(f"{kind}{n}" for n in range(len(manifest.filters)) for kind in ("f", "has")),
    }


def check_collection(client: Any, name: str, manifest: Manifest, seconds: float = WRITE_SECONDS) -> None:
    """Load the collection of a bundle, and check that it is the bundle's and whole; the read is consistent.

    Args:
        seconds: that each question to the server may take.

    Raises:
        BundleDamaged: there is no such collection, or it is of another bundle or holds other items.
        Unavailable: the server does not answer.
    """
    version, where = manifest.bundle_version[:12], f"collection {name} in Milvus ({URI})"
    with server_errors():
        if not client.has_collection(name, timeout=seconds):
            raise BundleDamaged(
                f"bundle {version}: there is no {where}: export or register the bundle again, or "
                "name the server that holds it"
            )
        said = client.describe_collection(name, timeout=seconds)
        if said.get("description") not in (manifest.bundle_version, ""):  # milvus-lite keeps no description
            raise BundleDamaged(f"{where}: written for another bundle than {version}")
        if (found := {each["name"] for each in said["fields"]}) != expected_fields(manifest):
            raise BundleDamaged(
                f"{where}: has the fields {', '.join(sorted(found))}, which another version of this program "
                "has written: drop it, and register the bundle again"
            )
        client.load_collection(name, timeout=seconds)
        strong = {"consistency_level": "Strong", "timeout": seconds}
        counted = client.query(name, filter="", output_fields=["count(*)"], **strong)[0]["count(*)"]
    if counted != manifest.count:
        raise BundleDamaged(f"{where}: holds {counted} items, but bundle {version} has {manifest.count}")
