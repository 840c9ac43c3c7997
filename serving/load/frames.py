"""HTTP/2 as bytes: frames out, header blocks in, and what gRPC reads of them.

RFC 9113 for the frames, RFC 7541 for the headers, and gRPC's `PROTOCOL-HTTP2.md` for their meaning. The
other end is told to keep no table of headers, so a block means the same whenever it comes, and equal
trailers have equal bytes: each block is decoded once, and then looked up.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import grpc
import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4

HEADER = struct.Struct(">HBBBI")  # length (the upper 16 bits, the lower 8), kind, flags, stream
HEADER_BYTES = 9
LARGEST = 16_384  # bytes in a frame, as long as nobody allows more
DEFAULT_WINDOW = 65_535  # bytes that may be on their way before anybody has said otherwise
CANCEL = 8  # a reason to reset a stream
REMEMBERED = 4096  # header blocks


class Status(NamedTuple):
    """How a call ended: the name of gRPC's code, and the text that came with it."""

    code: str
    message: str = ""


CODES = {code.value[0]: code.name for code in grpc.StatusCode}
RESETS = {8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}  # reason -> code
REFUSED = Status("UNAVAILABLE", "stream refused: nothing has been done for it")
REFUSED_STREAM = 7  # the reason of that


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return HEADER.pack(size >> 8, size & 255, kind, flags, stream) + payload


def settings(values: Sequence[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in values))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame: so many more bytes may come; on all streams together where it is 0."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def reset(payload: bytes) -> Status:
    """What an RST_STREAM frame says, to a caller who has not asked for it."""
    reason = int.from_bytes(payload)
    return REFUSED if reason == REFUSED_STREAM else Status(RESETS.get(reason, "INTERNAL"), f"reset, {reason}")


def message(payload: bytes) -> bytes:
    """A message as gRPC writes it: not compressed, its length, itself."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


def head(path: str, authority: str, timeout_ms: int) -> bytes:
    """The header block of a request.

    Args:
        path: `/retrieval.v1.Retrieval/Search`.
        authority: of the server.
        timeout_ms: of the call; at most 99,999,999 (`grpc-timeout`).
    """
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": f"{timeout_ms}m",
    }
    never_indexed = [hpack.NeverIndexedHeaderTuple(*each) for each in fields.items()]
    return bytes(hpack.Encoder().encode(never_indexed, huffman=False))


class Statuses:
    """Trailers read, each kind of them once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Status] = {}

    def of(self, block: bytes) -> Status:
        """What the last header block of a call says."""
        status = self._known.get(block)
        if status is None:
            if len(self._known) >= REMEMBERED:  # texts with ids or times in them are all different
                self._known.clear()
            status = self._known[block] = _status(block)
        return status


def _status(block: bytes) -> Status:
    try:
        fields = {str(name): str(value) for name, value in hpack.Decoder().decode(block)}
    except hpack.HPACKError as error:
        return Status("INTERNAL", f"headers that cannot be read: {error}")
    if "grpc-status" not in fields:
        return Status("UNKNOWN", f"HTTP status {fields.get(':status', 'missing')} without grpc-status")
    number = fields["grpc-status"]
    code = CODES.get(int(number), "UNKNOWN") if number.isdecimal() else "UNKNOWN"
    return Status(code, unquote(fields.get("grpc-message", "")))
