"""Item to vector: the bundle's other tower, for items that its catalogue does not hold.

encode = item_encoder(folder, manifest)
InferenceServicer(lambda: manifest, {"query": ..., "item": encode}, limits)
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protos.bundle import Manifest
from protos.errors import InvalidInput
from serving.encoder import Encoder
from serving.inference import Encode
from serving.query import Query
from serving.rpc import Rpc


def item_encoder(folder: Path, manifest: Manifest, threads: int = 1) -> Encode:
    """Load the item tower, which searches do without, as what encodes items.

    Args:
        folder: of a bundle whose files have been verified.
        manifest: of that bundle.
        threads: that ONNX Runtime may use inside one call.

    Raises:
        BundleDamaged: the tower is not an ONNX model, or not one that the manifest describes.
    """
    encoder = Encoder(folder, manifest, threads, "item")

    def encode(items: Sequence[Query], rpc: Rpc) -> npt.NDArray[np.float32]:
        rpc.check("encode")
        names = [f"queries[{n}]" for n in range(len(items))]
        values = [{name: item.features.get(name) for name in encoder.inputs.features} for item in items]
        try:
            arrays = encoder.arrays(values)
        except InvalidInput:
            encoder.blame(values, names)
            raise
        return encoder.vectors(arrays)

    return encode
