"""A tiny bundle, made by hand and without torch: real towers, a real index, a real manifest.

Its towers count letters: a code point c adds 1 to coordinate c mod 32, and the sum is brought to
unit length. Coordinate 0 is left out, so padding, NUL and the space count for nothing, and an empty
text becomes the zero vector.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from protos import bundle
from protos.bundle import IndexParameters, Manifest
from protos.features import (
    FIRST_KNOWN,
    CategoryFeature,
    FeatureSpec,
    NumberFeature,
    Schema,
    TextFeature,
)

DIMENSION = 32
TEXT = TextFeature("text", column="text", max_length=64)
PLAIN: Mapping[str, FeatureSpec] = {"text": TEXT}
FULL: Mapping[str, FeatureSpec] = {
    "text": TEXT,
    "country": CategoryFeature("category", column="country"),
    "tags": CategoryFeature("category", column="tags", multi=True),
    "age": NumberFeature("number", column="age"),
}
VOCABULARIES = {"query.country": ("de", "fr", "jp"), "query.tags": ("new", "old")}
SYLLABLES = ("ba", "ke", "li", "mo", "nu", "py", "ra", "so", "ti", "vu", "xe", "zo")


@dataclass(frozen=True)
class TinyTower:
    """What a tower does with its inputs.

    Args:
        features: that it takes.
        dimension: of its output.
        wraps: code points are taken mod 32; without it, one outside ASCII fails inside the graph.
        output: name of its output.
    """

    features: Mapping[str, FeatureSpec] = field(default_factory=lambda: PLAIN)
    dimension: int = DIMENSION
    wraps: bool = True
    output: str = "vector"


def tiny_bundle(
    parent: Path,
    items: int = 300,
    query_tower: TinyTower | None = None,
    report: str = "{}\n",
    **manifest: Any,
) -> Path:
    """Write a tiny bundle into `parent`.

    Args:
        parent: receives the bundle.
        items: N.
        query_tower: another than the plain one.
        report: content of `reports/quality.json`, to make two bundles differ.
        manifest: fields of the manifest that shall be something else.
    """
    query_tower = query_tower or TinyTower()
    names = item_names(items)

    def fill(folder: Path) -> None:
        write_tower(folder / bundle.QUERY_TOWER, query_tower)
        write_tower(folder / bundle.ITEM_TOWER, TinyTower())
        vectors = encode(folder / bundle.ITEM_TOWER, names)
        np.save(folder / bundle.VECTORS, vectors)
        build_index(vectors).save_index(str(folder / bundle.INDEX))
        table = {"ids": item_ids(items), "fields": {"name": names, "section": sections(items)}}
        (folder / bundle.ITEMS).write_text(json.dumps(table))
        (folder / bundle.REPORTS).mkdir()
        (folder / bundle.REPORTS / "quality.json").write_text(report)

    return bundle.write(parent, tiny_manifest(items, query_tower, **manifest), fill)


def tiny_manifest(items: int, query_tower: TinyTower, **changed: Any) -> Manifest:
    """The manifest of a tiny bundle, without its files."""
    query = dict(query_tower.features)
    known = {name: VOCABULARIES[f"query.{name}"] for name in query if f"query.{name}" in VOCABULARIES}
    fields: dict[str, Any] = {
        "name": "tiny",
        "run_id": "0" * 32,
        "git_commit": "",
        "dataset": {"kind": "tiny", "items": items},
        "split_hash": "0" * 64,
        "dimension": DIMENSION,
        "count": items,
        "schema": Schema(query, dict(PLAIN), {f"query.{name}": rows for name, rows in known.items()}),
        "index": IndexParameters(space="ip", m=8, ef_construction=64, ef_search=32, seed=0),
        "display_fields": ("name", "section"),
        "examples": tuple({"text": name} for name in item_names(items)[:20]),
        "quality": {"recall_at_10": 1.0},
        "parity": {"max_abs_diff": 1.3e-07},
        "ann": {"ann_recall_at_10": 1.0},
        "latency": {"query_tower_fp32_b1_p50_us": 45.0},
    }
    return Manifest(**{**fields, **changed})


def item_ids(items: int) -> list[str]:
    """`item-000`, `item-001`, and so on."""
    return [f"item-{n:03}" for n in range(items)]


def item_names(items: int) -> list[str]:
    """Three seeded pseudo-words each, which are also what the item tower reads."""
    rng = np.random.default_rng(0)
    return [" ".join("".join(rng.choice(SYLLABLES, 3)) for _ in range(3)) for _ in range(items)]


def sections(items: int) -> list[str | None]:
    """A display field that every fifth item lacks."""
    return [None if n % 5 == 0 else f"section {n % 5}" for n in range(items)]


def build_index(vectors: npt.NDArray[np.float32], space: str = "ip") -> hnswlib.Index:
    """An HNSW graph over vectors, the same byte for byte each time."""
    index = hnswlib.Index(space=space, dim=vectors.shape[1])
    index.init_index(len(vectors), M=8, ef_construction=64, random_seed=0)
    index.add_items(vectors, np.arange(len(vectors)), num_threads=1)
    return index


def encode(tower: Path, texts: list[str]) -> npt.NDArray[np.float32]:
    """The vectors of texts by a plain tower, float32 (B, D)."""
    session = onnxruntime.InferenceSession(tower, providers=["CPUExecutionProvider"])
    arrays = Schema(dict(PLAIN), dict(PLAIN)).side("item").to_arrays({"text": texts})
    vectors: npt.NDArray[np.float32] = session.run(None, arrays)[0]
    return vectors


def write_tower(path: Path, tower: TinyTower) -> None:
    """Write a tower as an ONNX file."""
    nodes, tables, inputs, sums = [], [], [], []
    for name, spec in tower.features.items():
        part = f"{name}_sum"
        sums.append(part)
        if isinstance(spec, TextFeature):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"]))
            letters = counted_letters(tower)
            nodes += text_nodes(name, part, tower.wraps)
        elif isinstance(spec, CategoryFeature):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", name]))
            letters = np.eye(FIRST_KNOWN + len(VOCABULARIES[f"query.{name}"]), tower.dimension, 3)
            letters[0] = 0
            nodes += gathered_sum(name, part)
        else:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]))
            letters = np.eye(1, tower.dimension, 9)
            nodes += number_nodes(name, part)
        tables.append(numpy_helper.from_array(letters.astype(np.float32), f"{name}_table"))
    nodes += unit_length(sums, tower.output)
    output = helper.make_tensor_value_info(tower.output, TensorProto.FLOAT, ["batch", tower.dimension])
    read = {name for node in nodes for name in node.input}
    used = [value for value in constants() if value.name in read]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [*tables, *used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def counted_letters(tower: TinyTower) -> npt.NDArray[Any]:
    """Which coordinate a code point counts in: (code points, D)."""
    table = np.zeros((32 if tower.wraps else 128, tower.dimension))
    for c in range(len(table)):
        table[c, c % 32 % tower.dimension] = c % 32 > 0
    return table


def constants() -> list[onnx.TensorProto]:
    """Values that the nodes refer to by name."""
    values: dict[str, npt.NDArray[Any]] = {
        "letters": np.array(32, np.int32),
        "zero": np.array(0, np.float32),
        "hundredth": np.array(0.01, np.float32),
        "least": np.array(1e-6, np.float32),
        "axis": np.array([1], np.int64),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def text_nodes(name: str, part: str, wraps: bool) -> list[onnx.NodeProto]:
    """Code points to letter counts."""
    if not wraps:
        return gathered_sum(name, part)
    wrapped = f"{name}_wrapped"
    mod = helper.make_node("Mod", [name, "letters"], [wrapped])
    return [mod, *gathered_sum(name, part, wrapped)]


def gathered_sum(name: str, part: str, indices: str = "") -> list[onnx.NodeProto]:
    """Rows of the feature's table, summed: (B, L) -> (B, D)."""
    gathered = f"{name}_rows"
    return [
        helper.make_node("Gather", [f"{name}_table", indices or name], [gathered]),
        helper.make_node("ReduceSum", [gathered, "axis"], [part], keepdims=0),
    ]


def number_nodes(name: str, part: str) -> list[onnx.NodeProto]:
    """A hundredth of the number in one coordinate, 0 where it is absent."""
    return [
        helper.make_node("IsNaN", [name], [f"{name}_absent"]),
        helper.make_node("Where", [f"{name}_absent", "zero", name], [f"{name}_present"]),
        helper.make_node("Mul", [f"{name}_present", "hundredth"], [f"{name}_scaled"]),
        helper.make_node("MatMul", [f"{name}_scaled", f"{name}_table"], [part]),
    ]


def unit_length(sums: list[str], output: str) -> list[onnx.NodeProto]:
    """The sum of the parts, brought to unit length; the zero vector stays what it is."""
    return [
        helper.make_node("Sum", sums, ["sum"]),
        helper.make_node("ReduceL2", ["sum", "axis"], ["norm"], keepdims=1),
        helper.make_node("Max", ["norm", "least"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], [output]),
    ]
