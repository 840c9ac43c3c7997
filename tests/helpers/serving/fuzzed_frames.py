"""Connections that keep to no rule of HTTP/2; the same ones for the same seed."""

import random
import struct
from collections.abc import Callable

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.fuzzed_messages import HEALTH, RETRIEVAL, SEARCH, SEEDS, varint
from tests.helpers.serving.http2 import frame
from tests.helpers.serving.raw import head

PUSH_PROMISE, PRIORITY_FRAME = 5, 2
PADDED = 8  # flag
SIZES = (0, 1, 4, 5, 6, 8, 9, 100, 1000)


def attack(rng: random.Random) -> list[bytes]:
    """What one connection sends: a preface, most of the time, and frames of which at least one is wrong."""
    greeting = frames.PREFACE + frames.settings(())
    if rng.random() < 0.05:
        greeting = rng.choice(
            (b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(40), greeting[:-5], greeting[1:], b"")
        )
    return [greeting, *rng.choice(ATTACKS)(rng)]


def _any_frames(rng: random.Random) -> list[bytes]:
    streams = (0, 1, 2, 3, 5, 0x7FFF_FFFF, 0x8000_0001, rng.getrandbits(32))
    kinds = (*range(10), *range(10), rng.randrange(256))
    return [
        frame(rng.choice(kinds), rng.randrange(256), rng.choice(streams), rng.randbytes(rng.choice(SIZES)))
        for _ in range(20)
    ]


def _truncated(rng: random.Random) -> list[bytes]:
    whole = frame(rng.randrange(10), rng.randrange(256), 1, rng.randbytes(50))
    return [_opened(1), whole[: rng.randrange(1, len(whole))]]


def _oversized(rng: random.Random) -> list[bytes]:
    size = rng.choice((16_385, 1 << 20, (1 << 24) - 1))
    header = frames.HEADER.pack(
        size >> 8, size & 255, rng.randrange(10), rng.randrange(256), rng.choice((0, 1))
    )
    return [_opened(1), header + rng.randbytes(rng.choice((0, 100, 20_000)))]


def _bad_headers(rng: random.Random) -> list[bytes]:
    """Blocks that are no valid HPACK, and valid ones whose headers are not allowed."""
    fields = rng.choice(
        (
            {":method": "GET"},
            {":path": ""},
            {"content-type": "text/html"},
            {"te": "x"},
            {"grpc-timeout": rng.choice(("", "x", "-1S", "99999999999H", "1"))},
            {"grpc-encoding": "zip"},
            {"UPPER": "x"},
            {"a": "\0\r\n"},
            {"x": "y" * rng.choice((9000, 20_000))},
            {":status": "200"},
            {"authorization": "Bearer \xff"},
            {"traceparent": "00-x-y-z", "x-request-id": "\x7f"},
        )
    )
    legible = {
        ":method": "POST",
        ":scheme": "http",
        ":path": SEARCH,
        "content-type": "application/grpc",
        **fields,
    }
    blocks = (
        rng.randbytes(30),
        b"\x80",  # index 0
        b"\xff" * 12,  # an index without end
        b"\x3f\xff\xff\xff\x7f",  # a table of 256 MiB
        b"\x00\x7f\xff\xff\xff\x0fabc",  # a name that is longer than the block
        _literal(legible),
        _literal({each: value for each, value in legible.items() if rng.random() < 0.7}),
        _literal(legible) * 2,
    )
    return [frame(frames.HEADERS, rng.choice((4, 5)), n, rng.choice(blocks)[:16_384]) for n in range(1, 9, 2)]


def _windows(rng: random.Random) -> list[bytes]:
    sizes = (0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF)
    updates = [frame(8, 0, rng.choice((0, 1, 1, 7)), struct.pack(">I", rng.choice(sizes))) for _ in range(10)]
    return [_opened(1), *updates, frame(8, 0, 1, b"abc")]


def _resets(rng: random.Random) -> list[bytes]:
    found = []
    for stream in range(1, 41, 2):
        found += [_opened(stream), frame(frames.RST_STREAM, 0, stream, struct.pack(">I", rng.randrange(20)))]
    return found


def _continuations(rng: random.Random) -> list[bytes]:
    block = head(SEARCH, 1000)
    start = frame(frames.HEADERS, 0, 1, block[:10])
    more = [frame(frames.CONTINUATION, 0, 1, rng.choice((b"", b"\0\1a\1b" * 50))) for _ in range(20)]
    last = frame(frames.CONTINUATION, 4, rng.choice((1, 3)), block[10:])
    return rng.choice(([start, *more, last], [start, *more], [last], [start, frame(6, 0, 0, bytes(8)), last]))


def _settings(rng: random.Random) -> list[bytes]:
    values = [(rng.randrange(8), rng.choice((0, 1, 16_383, 1 << 24, 2**31, 2**32 - 1))) for _ in range(3)]
    wrong = [
        frames.settings(values),
        frame(frames.SETTINGS, 0, 0, b"abc"),
        frame(frames.SETTINGS, frames.ACK, 0, bytes(6)),
        frame(frames.SETTINGS, 0, 1),
        frame(frames.PING, 0, 0, bytes(7)),
        frame(frames.PING, 0, 3, bytes(8)),
        frame(frames.GOAWAY, 0, 0, bytes(rng.choice((4, 8, 100)))),
        frame(PUSH_PROMISE, 4, 1, bytes(4)),
        frame(PRIORITY_FRAME, 0, 1, struct.pack(">IB", 1, 1)),
    ]
    flood = [frames.settings([(4, n)]) for n in range(20)] + [frame(frames.PING, 0, 0, bytes(8))] * 20
    return [_opened(1), rng.choice(wrong), rng.choice(wrong), *(flood if rng.random() < 0.3 else ())]


def _data(rng: random.Random) -> list[bytes]:
    """DATA where none belongs, padded beyond its end, or cut into the smallest pieces."""
    message = frames.message(SEEDS[0][1])
    pieces = [frame(frames.DATA, 0, 1, message[n : n + 1]) for n in range(len(message))]
    padded = frame(frames.DATA, PADDED, 1, bytes([rng.choice((0, 5, 255))]) + message)
    return rng.choice(
        (
            [_opened(1), *pieces, frame(frames.DATA, 1, 1), frame(frames.DATA, 1, 1, message)],
            [frame(frames.DATA, 1, 1, message)],
            [_opened(1), padded, frame(frames.DATA, 1, 1)],
            [_opened(3), frame(frames.DATA, 1, 3, message), _opened(1), frame(frames.DATA, 1, 0, message)],
            [_opened(1), *[frame(frames.DATA, 0, 1)] * 30, frame(frames.HEADERS, 5, 1, _literal({"a": "b"}))],
        )
    )


def _left_open(rng: random.Random) -> list[bytes]:
    """Calls that are never ended: without a message, within a message, or of a method without end."""
    found = []
    for stream in range(1, 21, 2):
        path = rng.choice((SEARCH, f"{RETRIEVAL}/SearchStream", f"{HEALTH}/Watch"))
        message = rng.choice((b"", frames.message(b"\x0a\x04" + rng.randbytes(4).hex()[:4].encode())))
        cut = message[: rng.randint(0, len(message))] if rng.random() < 0.3 else message
        found += [_opened(stream, path), frame(frames.DATA, 0, stream, cut)]
    return found


ATTACKS: tuple[Callable[[random.Random], list[bytes]], ...] = (
    _any_frames, _truncated, _oversized, _bad_headers, _windows, _resets, _continuations, _settings, _data,
    _left_open,
)  # fmt: skip


def _opened(stream: int, path: str = SEARCH) -> bytes:
    return frame(frames.HEADERS, frames.END_HEADERS, stream, head(path, 1000))


def _literal(fields: dict[str, str]) -> bytes:
    """A header block without tables, whatever is in it."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(text: str) -> bytes:
    raw = text.encode("latin-1")
    return (bytes([len(raw)]) if len(raw) < 127 else b"\x7f" + varint(len(raw) - 127)) + raw
