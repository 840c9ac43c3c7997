"""The variants of an exported tower: which can be made, and why others cannot."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.precision import dense
from export.precision.rounded import VARIANTS, stored_as
from export.precision.tables import LEAST_BYTES, tables_of, with_stored_tables
from protos.bundle import Variant
from protos.features import Arrays

NO_TABLES = f"no table of at least {LEAST_BYTES // 2**10} KiB is looked up"
NO_LAYERS = f"no dense layer has at least {dense.LEAST_SIZE} inputs and outputs"


@dataclass(frozen=True)
class Variants:
    """Files of one tower.

    Args:
        files: name -> ONNX file; float32 is among them.
        skipped: name of a variant that was not made -> why.
        tables, layers: names of what is stored in fewer bits.
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
) -> Variants:
    """Write the variants of a tower as `<its name>-<variant>.onnx`.

    Args:
        plain: the tower in float32; it stays as it is.
        folder: that receives the others.
        calibration: gives training records' arrays, batch after batch; called for `int8_static` alone.
    """
    model = onnx.load(plain)
    tables, layers = tables_of(model), dense.dense_layers(model)
    made = Variants({"fp32": plain}, {}, tables, layers)
    for name in wanted:
        reason = _missing(name, tables, layers)
        if reason:
            made.skipped[name] = reason
        elif name != "fp32":
            path = folder / f"{plain.stem}-{name}.onnx"
            _make(name, model, path, calibration)
            made.files[name] = path
    return made


def node_count(path: Path) -> int:
    """Nodes of an ONNX file."""
    return len(onnx.load(path).graph.node)


def _missing(name: Variant, tables: Sequence[str], layers: Sequence[str]) -> str:
    """Why there is nothing to make a variant of; empty where there is something."""
    if name.endswith("_tables") and not tables:
        return NO_TABLES
    return NO_LAYERS if name in ("int8_dynamic", "int8_static") and not layers else ""


def _make(
    name: Variant, model: onnx.ModelProto, path: Path, calibration: Callable[[], Iterable[Arrays]]
) -> None:
    stored = stored_as(name)
    assert stored is not None
    changed = with_stored_tables(model, stored)
    if name == "int8_dynamic":
        dense.dynamic(changed, path)
    elif name == "int8_static":
        dense.static(changed, path, calibration())
    else:
        onnx.save_model(changed, path)
