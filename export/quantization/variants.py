"""The variants of a tower in lower precision: ONNX files, and torch towers with the same tables.

To add a variant, add its name to `protos.bundle.TableVariant`, and how its tables are stored to `STORED`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnx
import torch
from torch import Tensor, nn

from export.onnx.export import frozen
from export.quantization.tables import (
    MIN_BYTES,
    Stored,
    is_table,
    rounded_table,
    tables_of,
    with_stored_tables,
)
from protos.bundle import TableVariant, Variant
from train.models.towers import Tower

# Sentences about variants are part of a bundle's report: other words would make it another bundle.
NO_TABLES = f"no table of at least {MIN_BYTES // 2**10} KiB is looked up"

STORED: Mapping[Variant, Stored | None] = {
    "fp32": None,
    "fp16_tables": "fp16",
    "int8_tables": "int8",
    "int8_dynamic": "int8",  # of bundles of earlier versions, as the next
    "int8_static": "int8",
}
"""Variant -> how its embedding tables are stored; None in float32."""
VARIANTS: tuple[TableVariant, ...] = get_args(TableVariant)


@dataclass(frozen=True)
class Variants:
    """The files of one tower.

    Args:
        files: name -> ONNX file, float32 included.
        skipped: name of a variant that was not made -> reason.
        tables: names of the tables of lower precision.
    """

    files: dict[TableVariant, Path]
    skipped: dict[TableVariant, str]
    tables: tuple[str, ...]


def make_variants(plain: Path, folder: Path, wanted: Sequence[TableVariant] = VARIANTS) -> Variants:
    """Write the variants of a tower as `<its name>-<variant>.onnx`.

    Args:
        plain: the tower in float32; it is not changed.
        folder: receives the other variants.
    """
    model = onnx.load(plain)
    made = Variants({"fp32": plain}, {}, tables_of(model))
    for name in wanted:
        stored = STORED[name]
        if stored is None:
            continue
        if not made.tables:
            made.skipped[name] = NO_TABLES
            continue
        made.files[name] = folder / f"{plain.stem}-{name}.onnx"
        onnx.save_model(with_stored_tables(model, stored), made.files[name])
    return made


def round_tables(tower: Tower, variant: Variant) -> Tower:
    """A copy for inference whose tables are rounded as in a variant's file.

    What rounding costs shows in the quality. With equal tables, torch and ONNX Runtime have to agree as they
    do in float32. A table that several encoders share stays shared.
    """
    copied = frozen(tower)
    stored = STORED[variant]
    if stored is not None:
        for table in _tables(copied):
            table.copy_(torch.from_numpy(rounded_table(table.numpy(), stored)))
    return copied


def node_count(path: Path) -> int:
    """The number of nodes in an ONNX file."""
    return len(onnx.load(path).graph.node)


def _tables(tower: Tower) -> list[Tensor]:
    """The parameters whose rows are looked up, each once."""
    found: dict[int, Tensor] = {}
    for part in tower.modules():
        for table in _tables_of(part):
            if is_table(4 * table.numel(), table.shape[1]):
                found[id(table)] = table
    return list(found.values())


def _tables_of(part: nn.Module) -> list[Tensor]:
    """The tables of an encoder: the weights of an `nn.Embedding`, or its attributes `table` and `tables`."""
    if isinstance(part, nn.Embedding):
        return [part.weight]
    several = getattr(part, "tables", None)
    tables = [
        getattr(part, "table", None),
        *(several.values() if isinstance(several, nn.ParameterDict) else ()),
    ]
    return [table for table in tables if isinstance(table, Tensor)]
