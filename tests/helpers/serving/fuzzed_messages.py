"""Messages that no client of the service would send; the same ones for the same seed."""

import random
import struct
from collections.abc import Callable, Iterator

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.helpers.serving import http2 as frames
from tests.helpers.tiny import item_names
from twinspire.protos import retrieval_pb2 as wire

RETRIEVAL = "/retrieval.v1.Retrieval"
HEALTH, REFLECTION = "/grpc.health.v1.Health", "/grpc.reflection.v1alpha.ServerReflection"
SEARCH = f"{RETRIEVAL}/Search"

_QUERIES = [
    wire.Query(text="bavuti xelike"),
    wire.Query(text="日本 ß 😀", features={"age": wire.FeatureValue(number=3.0)}),
    wire.Query(item_id="item-007"),
    wire.Query(
        history=["item-001", "item-002"], features={"a": wire.FeatureValue(strings={"values": ["b"]})}
    ),
]
_ITEM = wire.UnseenItem(features={"text": wire.FeatureValue(text="bavuti")})


def _seeds() -> list[tuple[str, bytes]]:
    """Valid requests of all methods."""
    requests: list[tuple[str, Message]] = [
        (f"{RETRIEVAL}/{method}", wire.SearchRequest(query=query, k=3, exclude=["item-003"]))
        for method in ("Search", "Search", "SearchStream")
        for query in _QUERIES
    ]
    requests += [(SEARCH, wire.SearchRequest(query={"text": name})) for name in item_names(8)]
    requests += [
        (f"{RETRIEVAL}/SearchBatch", wire.SearchBatchRequest(queries=_QUERIES[:1] * 3, exclude_history=True)),
        (f"{RETRIEVAL}/SearchBatch", wire.SearchBatchRequest(queries=_QUERIES, k=2)),
        (f"{RETRIEVAL}/Encode", wire.EncodeRequest(queries=_QUERIES)),
        (f"{RETRIEVAL}/Encode", wire.EncodeRequest(queries=_QUERIES[:1])),
        (f"{RETRIEVAL}/Encode", wire.EncodeRequest(items=[_ITEM] * 2)),
        (f"{RETRIEVAL}/Info", wire.InfoRequest()),
        (f"{HEALTH}/Check", health_pb2.HealthCheckRequest(service="retrieval.v1.Retrieval")),
        (f"{HEALTH}/List", health_pb2.HealthListRequest()),
    ]
    reflection = f"{REFLECTION}/ServerReflectionInfo"
    for asked in (
        {"list_services": ""},
        {"file_by_filename": "x"},
        {"file_containing_symbol": RETRIEVAL[1:]},
    ):
        requests.append((reflection, reflection_pb2.ServerReflectionRequest(**asked)))
    extension = {"containing_type": "retrieval.v1.Query", "extension_number": 7}
    requests.append((reflection, reflection_pb2.ServerReflectionRequest(file_containing_extension=extension)))
    return [(path, message.SerializeToString()) for path, message in requests]


SEEDS = _seeds()


def messages(rng: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """Paths, and what is sent there in place of a request, its frame of five bytes included."""
    for _ in range(count):
        path, payload = rng.choice(SEEDS)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
            payload = rng.choice(MUTATIONS)(rng, payload)
        framed = frames.message(payload[:20_000])
        if rng.random() < 0.02:
            framed = _misframed(rng, framed)
        if rng.random() < 0.01:
            path = rng.choice(("/", "", path + "x", path.lower(), "/a/b", path.replace("/", "")))
        yield path, framed


def _flip(rng: random.Random, payload: bytes) -> bytes:
    changed = bytearray(payload or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(rng: random.Random, payload: bytes) -> bytes:
    at = rng.randint(0, len(payload))
    return payload[:at] + rng.randbytes(rng.randint(1, 8)) + payload[at:]


def _cut(rng: random.Random, payload: bytes) -> bytes:
    first, last = sorted(rng.randint(0, len(payload)) for _ in range(2))
    return payload[:first] + payload[last:]


def _splice(rng: random.Random, payload: bytes) -> bytes:
    other = rng.choice(SEEDS)[1]
    return payload[: rng.randint(0, len(payload))] + other[rng.randint(0, len(other)) :]


def _repeat(rng: random.Random, payload: bytes) -> bytes:
    return payload * rng.choice((2, 3, 40, 300))


def _random(rng: random.Random, payload: bytes) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 5, 50, 500)))


def _nested(rng: random.Random, payload: bytes) -> bytes:
    """Groups in groups, or messages in messages, far deeper than any message is."""
    depth = rng.choice((90, 101, 3000))
    if rng.random() < 0.5:
        return payload + b"\x0b" * depth + b"\x0c" * depth
    for _ in range(min(depth, 101)):
        payload = b"\x0a" + varint(len(payload)) + payload
    return payload


def _huge(rng: random.Random, payload: bytes) -> bytes:
    """A number or a length that is far too large, in ten bytes or more."""
    tag = bytes([rng.randrange(1, 16) << 3 | rng.choice((0, 2))])
    return (
        payload
        + tag
        + rng.choice((b"\xff" * 9 + b"\x01", b"\xff" * 30, b"\xff\xff\xff\xff\x0f", b"\x80" * 11))
    )


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _flip, _insert, _insert, _cut, _cut, _splice, _splice, _repeat, _random, _nested, _huge,
)  # fmt: skip


def _misframed(rng: random.Random, framed: bytes) -> bytes:
    too_large = (
        rng.choice((4 << 20, (4 << 20) + 1, 2**32 - 1)) if rng.random() < 0.05 else 0
    )  # gRPC is slow there
    size = too_large or rng.choice((0, 1, len(framed) - 4, len(framed) + 100))
    return rng.choice(
        (
            b"\1" + framed[1:],  # compressed, without a header that names the encoding
            bytes([rng.randrange(2, 256)]) + framed[1:],
            framed[:1] + struct.pack(">I", size) + framed[5:],
            framed[: rng.randint(0, 4)],
            framed + framed,
            framed + b"\0",
        )
    )


def varint(number: int) -> bytes:
    """A number as protobuf and HPACK write it beyond its first byte."""
    written = b""
    while number > 0x7F:
        written += bytes([number & 0x7F | 0x80])
        number >>= 7
    return written + bytes([number])
