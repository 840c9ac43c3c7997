"""Bundles that earlier versions have made are served: what a tower is made of is in its ONNX file."""

import zipfile
from pathlib import Path

import onnx
from onnxruntime.quantization import quantize_dynamic

from tests.helpers.serving.following import reseal
from tests.helpers.tiny import item_names
from twinspire.protos.bundle import OLDEST_VERSION, QUERY_TOWER, Precisions
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever


def test_a_bundle_whose_towers_are_of_variants_that_are_no_longer_made_is_served(
    plain: Path, tmp_path: Path
) -> None:
    def quantise(folder: Path) -> None:
        tower = folder / QUERY_TOWER
        quantize_dynamic(tower, tower, op_types_to_quantize=["Gather"])
        assert "DequantizeLinear" in {node.op_type for node in onnx.load(tower).graph.node}

    earlier = Precisions(query="int8_dynamic", item="int8_static")
    retriever = Retriever.load(reseal(plain, tmp_path, quantise, precision=earlier))
    assert retriever.manifest.precision == earlier
    (answer,) = retriever.search([Query(item_names(300)[7])], k=1)
    assert answer.hits[0].id == "item-007"


def test_the_bundle_of_schema_3_that_is_kept_here_is_served(tmp_path: Path) -> None:
    """It is of 1 December 2026. A change that keeps it from being served needs another version."""
    with zipfile.ZipFile(Path(__file__).with_name("bundle_of_schema_3.zip")) as kept:
        kept.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    retriever = Retriever.load(folder)
    assert retriever.manifest.schema_version == OLDEST_VERSION == 3
    names = item_names(20)
    for n, answer in enumerate(retriever.search([*map(Query, names)], k=1)):
        assert answer.hits[0].id == f"item-{n:03}"
        assert dict(answer.hits[0].fields)["name"] == names[n]
