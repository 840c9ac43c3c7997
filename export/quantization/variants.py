"""The variants of a tower in lower precision: recipes, ONNX files, and torch towers with the same tables.

To add a variant, add its name to `protos.bundle.Variant` and its recipe to `RECIPES`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from export.onnx.export import frozen
from export.quantization import dense
from export.quantization.tables import (
    MIN_BYTES,
    Stored,
    is_table,
    rounded_table,
    tables_of,
    with_stored_tables,
)
from protos.bundle import Variant
from protos.features import Arrays
from train.models.towers import Tower

# Sentences about variants are part of a bundle's report: other words would make it another bundle.
NO_TABLES = f"no table of at least {MIN_BYTES // 2**10} KiB is looked up"
NO_LAYERS = f"no dense layer has at least {dense.MIN_SIZE} inputs and outputs"


@dataclass(frozen=True)
class Recipe:
    """How a variant is made.

    Args:
        tables: how embedding tables are stored; None in float32.
        dense: how dense layers are computed in int8; None in float32.
        manual: why `auto` never chooses it; empty if it may.
    """

    tables: Stored | None = None
    dense: Literal["dynamic", "static"] | None = None
    manual: str = ""


RECIPES: Mapping[Variant, Recipe] = {
    "fp32": Recipe(),
    "fp16_tables": Recipe("fp16"),
    "int8_tables": Recipe("int8"),
    "int8_dynamic": Recipe(
        "int8",
        "dynamic",
        "taken only where it is asked for: a vector depends on what else is in its batch",
    ),
    "int8_static": Recipe(
        "int8",
        "static",
        "taken only where it is asked for: what calibration has not seen may come out far off",
    ),
}
VARIANTS: tuple[Variant, ...] = tuple(RECIPES)


@dataclass(frozen=True)
class Variants:
    """The files of one tower.

    Args:
        files: name -> ONNX file, float32 included.
        skipped: name of a variant that was not made -> reason.
        tables, layers: names of the tables and layers of lower precision.
    """

    files: dict[Variant, Path]
    skipped: dict[Variant, str]
    tables: tuple[str, ...]
    layers: tuple[str, ...]


def make_variants(
    plain: Path,
    folder: Path,
    calibration: Callable[[], Iterable[Arrays]],
    wanted: Sequence[Variant] = VARIANTS,
    left_out: Mapping[Variant, str] = MappingProxyType({}),
) -> Variants:
    """Write the variants of a tower as `<its name>-<variant>.onnx`.

    Args:
        plain: the tower in float32; it is not changed.
        folder: receives the other variants.
        calibration: returns batches of training records; called for static quantisation only.
        left_out: variants that are not made although they could be -> the reason.
    """
    model = onnx.load(plain)
    tables, layers = tables_of(model), dense.dense_layers(model)
    made = Variants({"fp32": plain}, {}, tables, layers)
    for name in wanted:
        recipe = RECIPES[name]
        reason = _obstacle(recipe, tables, layers) or left_out.get(name, "")
        if reason:
            made.skipped[name] = reason
        elif name != "fp32":
            path = folder / f"{plain.stem}-{name}.onnx"
            _make(recipe, model, path, calibration)
            made.files[name] = path
    return made


def round_tables(tower: Tower, variant: Variant) -> Tower:
    """A copy for inference whose tables are rounded as in a variant's file; dense layers are not changed.

    What rounding costs shows in the quality. With equal tables, torch and ONNX Runtime have to agree as they
    do in float32. A table that several encoders share stays shared.
    """
    copied = frozen(tower)
    stored = RECIPES[variant].tables
    if stored is not None:
        for table in _tables(copied):
            table.copy_(torch.from_numpy(rounded_table(table.numpy(), stored)))
    return copied


def node_count(path: Path) -> int:
    """The number of nodes in an ONNX file."""
    return len(onnx.load(path).graph.node)


def _obstacle(recipe: Recipe, tables: Sequence[str], layers: Sequence[str]) -> str:
    """Why the variant cannot be made of a tower; empty if it can."""
    if recipe.dense:
        return "" if layers else NO_LAYERS
    return NO_TABLES if recipe.tables and not tables else ""


def _make(
    recipe: Recipe, model: onnx.ModelProto, path: Path, calibration: Callable[[], Iterable[Arrays]]
) -> None:
    changed = model if recipe.tables is None else with_stored_tables(model, recipe.tables)
    if recipe.dense == "dynamic":
        dense.dynamic(changed, path)
    elif recipe.dense == "static":
        dense.static(changed, path, calibration())
    else:
        onnx.save_model(changed, path)


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
