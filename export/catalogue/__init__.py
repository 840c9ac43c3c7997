"""All items through the ONNX item tower: a stream of windows, in batches of like length.

    python -m export encode --config train/configs/pydocs.toml --items items.parquet --output vectors.npy

Records are read a window at a time (`records`), encoded (`windows`), and either gathered in
memory, `encode_all`, or written to a file that survives a kill, `encode_into` (`draft`). Both give the same
vectors byte for byte: which records share a batch depends on nothing but where they stand.
"""

from export.catalogue.encoding import ItemTower, Streamed, encode_all, encode_into, encode_once
from export.catalogue.records import WINDOW, ColumnRecords, Records, TableRecords
from export.catalogue.windows import BATCH

__all__ = [
    "BATCH",
    "WINDOW",
    "ColumnRecords",
    "ItemTower",
    "Records",
    "Streamed",
    "TableRecords",
    "encode_all",
    "encode_into",
    "encode_once",
]
