"""Bundles that earlier versions have made are served: what a tower is made of is in its ONNX file."""

from pathlib import Path

from protos.bundle import Precisions
from serving.retrieval.query import Query
from serving.retrieval.retriever import Retriever
from tests.helpers.tiny import item_names, tiny_bundle


def test_a_bundle_whose_towers_are_of_variants_that_are_no_longer_made_is_served(tmp_path: Path) -> None:
    earlier = Precisions(query="int8_dynamic", item="int8_static")
    retriever = Retriever.load(tiny_bundle(tmp_path, precision=earlier))
    assert retriever.manifest.precision == earlier
    (answer,) = retriever.search([Query(item_names(300)[7])], k=1)
    assert answer.hits[0].id == "item-007"
