"""A bundle's model over the items of a data set, as the service runs it, but for its index."""

from pathlib import Path

from twinspire.export.encoding.encoding import ItemTower, encode_once
from twinspire.export.encoding.records import ColumnRecords
from twinspire.export.evaluation.quality import ServedModel
from twinspire.export.hybrid.postings import ranking_of
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.protos.bundle import QUERY_TOWER, Manifest
from twinspire.train.data.training_data import TrainingData, texts_of
from twinspire.train.progress import PROGRESS


def served_model(folder: Path, manifest: Manifest, data: TrainingData, title: str = "items") -> ServedModel:
    """The model of the bundle in a folder, with the vectors of the items of these data.

    Args:
        title: of the bar that shows how many items are encoded, unless the cache has them.
    """
    tower, query = ItemTower.of(folder, manifest), onnx_encoder(folder / QUERY_TOWER, threads=0)
    items = encode_once(manifest.name, tower, ColumnRecords(data.items, title)).vectors
    with PROGRESS.status("lexical index"):
        texts = texts_of(data.items, manifest.schema.item)
        hybrid = ranking_of(folder, manifest, texts, data.item_ids, items)
    return ServedModel(query, manifest.schema.side("query"), items, hybrid)
