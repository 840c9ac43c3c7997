"""A bundle's model over given values of the items, as the service runs it, but for its index."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twinspire.export.encoding.encoding import ItemTower, encode_once
from twinspire.export.encoding.records import ColumnRecords
from twinspire.export.evaluation.quality import ServedModel
from twinspire.export.hybrid.rebuild import ranking_of
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.protos.bundle import QUERY_TOWER, Manifest
from twinspire.train.data.training_data import texts_of
from twinspire.train.progress import PROGRESS


def served_model(
    folder: Path,
    manifest: Manifest,
    values: Mapping[str, Sequence[Any]],
    ids: Sequence[str],
    title: str = "items",
) -> ServedModel:
    """The model of a bundle with the vectors of these items.

    Args:
        folder: of the bundle.
        values: of the items, by name of the feature.
        ids: of the same items.
        title: of the bar that shows how many items are encoded, unless the cache has them.
    """
    tower, query = ItemTower.of(folder, manifest), onnx_encoder(folder / QUERY_TOWER, threads=0)
    items = encode_once(manifest.name, tower, ColumnRecords(values, title)).vectors
    with PROGRESS.status("lexical index"):
        hybrid = ranking_of(folder, manifest, texts_of(values, manifest.schema.item), ids, items)
    return ServedModel(query, manifest.schema.side("query"), items, hybrid)
