"""What each worker counts, and in which cell of its row.

Every label has a fixed set of values. So a row has a fixed width, no client can make it grow by inventing
a label, and the memory of all rows is laid out before the first worker is forked.
"""

import grpc

from serving.histogram import SECONDS, SIZES, width

OTHER = "other"
RETRIEVAL = ("Search", "SearchBatch", "SearchStream", "Encode", "Info")
INFERENCE = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")
METHODS = (*RETRIEVAL, *INFERENCE, OTHER)
CODES = tuple(code.name for code in grpc.StatusCode)
STAGES = ("queue", "encode", "search", "serialise")
# Why a request was not worked on: there is no room, its client asks too often, its deadline passed or it
# went away while it waited, or it may not ask.
REASONS = ("no_room", "rate_limit", "deadline", "cancelled", "access", OTHER)

# Why the server closed a connection: it made no call in time, its address has too many, the worker is nearly
# full, or it sent frames without end.
CLOSED_REASONS = ("first_call", "address", "full", "flood")

# Who holds the row. Written when a worker starts, and by its supervisor once it has ended.
PID, UP, STARTED, STARTS = range(4)
# What is so at the moment; a worker that has ended has none of it.
QUEUE_DEPTH, IN_FLIGHT, STREAMS = GAUGES = range(4, 7)

# Written by the worker on each turn of its event loop; 0 until the loop has started.
HEARTBEAT = 7
# Workers killed in this slot because their heartbeat had stopped. Written by the supervisor.
HANGS = 8

# What is counted: cells that never fall, whoever holds the row.
COUNTED = 9
REQUESTS = {
    method: {code: COUNTED + m * len(CODES) + c for c, code in enumerate(CODES)}
    for m, method in enumerate(METHODS)
}
_QUERIES = COUNTED + len(METHODS) * len(CODES)
QUERIES = {method: _QUERIES + m for m, method in enumerate(METHODS)}
_REFUSED = _QUERIES + len(METHODS)
REFUSED = {reason: _REFUSED + r for r, reason in enumerate(REASONS)}
_CLOSED = _REFUSED + len(REASONS)
CONNECTIONS_CLOSED = {reason: _CLOSED + r for r, reason in enumerate(CLOSED_REASONS)}
_REQUEST_SECONDS = _CLOSED + len(CLOSED_REASONS)
REQUEST_SECONDS = {method: _REQUEST_SECONDS + m * width(SECONDS) for m, method in enumerate(METHODS)}
_STAGE_SECONDS = _REQUEST_SECONDS + len(METHODS) * width(SECONDS)
STAGE_SECONDS = {stage: _STAGE_SECONDS + s * width(SECONDS) for s, stage in enumerate(STAGES)}
BATCH_SIZE = _STAGE_SECONDS + len(STAGES) * width(SECONDS)
# By version of the bundle: so many are remembered, the one that was not served for longest gives way. A cell
# holds which it is, the first 13 hexadecimal digits of its version: as many bits as a float has for integers.
VERSIONS = 4
DIGITS = 13
VERSION_REQUESTS = {code: 1 + c for c, code in enumerate(CODES)}  # from the start of a version's cells
VERSION_SECONDS = 1 + len(CODES)
VERSION_WIDTH = VERSION_SECONDS + width(SECONDS)
_FIRST_VERSION = BATCH_SIZE + width(SIZES)
VERSION_STARTS = tuple(_FIRST_VERSION + v * VERSION_WIDTH for v in range(VERSIONS))
_USED = _FIRST_VERSION + VERSIONS * VERSION_WIDTH


def version_cell(version: str) -> float:
    """What the cell says that tells a version of a bundle; 0 is none."""
    return float(int(version[:DIGITS] or "0", 16))


def version_text(cell: float) -> str:
    """The first 12 digits of the version that a cell tells, as its folder is named."""
    return f"{int(cell):0{DIGITS}x}"[:12]


CELL_BYTES = 8
ROW = -(-_USED // 8) * 8  # whole cache lines of 64 bytes, so that two workers never write to the same one
