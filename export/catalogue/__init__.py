"""All items through the ONNX item tower: a stream of windows, in batches of like length.

    python -m export encode --config train/configs/pydocs.toml --items items.parquet --output vectors.npy

Records are read a window at a time (`records`), encoded (`windows`), and either gathered in
memory, `encode_all`, or written to a file that survives a kill, `encode_into` (`draft`). Both give the same
vectors byte for byte on one processor, with one number of threads: which records share a batch depends only
on their position. A draft that is continued on another processor is as good, but its vectors differ by
rounding.
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
