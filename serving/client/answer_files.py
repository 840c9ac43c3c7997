"""Answers as documents, and files of them: JSON lines, or Parquet where the name ends in `.parquet`.

A row of Parquet is an answer, and its hits are a list of structs. `pyarrow` is imported for Parquet only.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from twinspire.protos import bundle
from twinspire.protos.errors import DataError, MissingStage
from twinspire.protos.nearest.scores import PARTS
from twinspire.serving.retrieval.answer import Answer, FusionMode, Hit

Document = dict[str, Any]
Write = Callable[[Document], Any]

PARQUET = ".parquet"
FLAT = (".csv", ".tsv")  # tables whose cells cannot hold a list of hits
ROWS = 1024  # rows of Parquet that are written at once


def answer_document(answer: Answer) -> Document:
    """An answer as JSON."""
    hits = [
        {"rank": rank, "id": hit.id, "score": hit.score, "fields": dict(hit.fields), **_parts(hit)}
        for rank, hit in enumerate(answer.hits, 1)
    ]
    fusion = {} if answer.fusion is FusionMode.DEFAULT else {"fusion": answer.fusion}
    return {
        "hits": hits,
        "basis": answer.basis,
        "plan": answer.plan,
        **fusion,
        "weak": answer.weak,
        "unknown_history": answer.unknown_history,
        "bundle_version": answer.bundle_version,
        **answer.timing._asdict(),
        **({"sequence": answer.sequence} if answer.sequence else {}),
        **({"request_id": answer.request_id} if answer.request_id else {}),
        **({"explored": True, "propensities": answer.propensities} if answer.explored else {}),
    }


def _parts(hit: Hit) -> Document:
    """The parts of a hit's score that the bundle has; none where it has no lexical index."""
    return {name: part for name in PARTS if (part := getattr(hit, name)) is not None}


@contextmanager
def answer_file(path: Path) -> Iterator[Write]:
    """A file of answers; yields the function that adds a document.

    The file appears under its name only if the block succeeds.

    Raises:
        DataError: it cannot be written, or its format cannot hold lists of hits.
        MissingStage: it is Parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() in FLAT:
        raise DataError(
            f"{path}: cannot hold lists of hits; expected a name such as answers.jsonl or .parquet"
        )
    writer = _parquet if path.suffix.lower() == PARQUET else _json_lines
    try:
        with bundle.whole_file(path) as file, writer(file) as write:
            yield write
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


@contextmanager
def _json_lines(file: BinaryIO) -> Iterator[Write]:
    yield lambda document: file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingStage("writing Parquet needs pyarrow; install it with: pip install pyarrow") from None
    strings = pa.map_(pa.string(), pa.string())
    hit = {"rank": pa.int32(), "id": pa.string(), "score": pa.float64(), "fields": strings}
    hit |= dict.fromkeys(PARTS, pa.float64())
    schema = pa.schema(
        {
            "line": pa.int64(),
            "hits": pa.list_(pa.struct(hit)),
            "basis": pa.string(),
            "plan": pa.string(),
            "fusion": pa.string(),
            "weak": pa.bool_(),
            "unknown_history": pa.int64(),
            "bundle_version": pa.string(),
            "queue_us": pa.int64(),
            "encode_us": pa.int64(),
            "search_us": pa.int64(),
            "sequence": pa.int64(),
            "request_id": pa.string(),
            "explored": pa.bool_(),
            "propensities": pa.list_(pa.float64()),
        }
    )
    rows: list[Document] = []

    def write(document: Document) -> None:
        rows.append(document)
        if len(rows) >= ROWS:
            flush()

    def flush() -> None:
        table.write_table(pa.Table.from_pylist(rows, schema))
        rows.clear()

    with pq.ParquetWriter(file, schema) as table:
        yield write
        flush()
