"""A bundle as an encoder of `mteb`, the Massive Text Embedding Benchmark (versions 1 and 2).

    import mteb
    from export.evaluation.mteb_encoder import BundleEncoder

    mteb.evaluate(BundleEncoder(".cache/bundles/0123456789ab"), mteb.get_tasks(["SciFact"]))

Queries go through the query tower, documents through the item tower, both in ONNX Runtime as in the service.
Texts of tasks that have neither, such as clustering, go through the query tower. Nothing here imports `mteb`
before it asks for the description of the model.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import Tensor

from export.encoding import encode_all
from export.onnx.runtimes import Encode, onnx_encoder
from protos import bundle
from protos.bundle import TOWERS
from protos.errors import MissingStage
from protos.features import (
    SIDES,
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    Side,
    TextFeature,
)

Vectors = npt.NDArray[np.float32]
TITLE, TEXT = "title", "text"
DOCUMENT = ("document", "passage")  # what versions 2 and 1 call the prompt of a document
SIMILARITY = {"cosine": "cosine", "inner_product": "dot", "sigmoid": "dot"}  # of `Score.kind`


class BundleEncoder:
    """Encodes texts with the towers of a bundle.

    Args:
        folder: of the bundle, which is verified.
        revision: not used; `mteb` passes it by position.
        device: not used; ONNX Runtime encodes on the CPU.
        threads: of ONNX Runtime; 0 takes all cores.

    Raises:
        BundleError: the bundle cannot be read.
        MissingStage: a tower reads no text.
    """

    def __init__(
        self, folder: str | Path, revision: str | None = None, device: str | None = None, threads: int = 0
    ) -> None:
        self.folder = Path(folder)
        self.manifest = bundle.read(self.folder)
        schema = self.manifest.schema
        self._features: dict[Side, Mapping[str, FeatureSpec]] = {"query": schema.query, "item": schema.item}
        self._inputs = {side: schema.side(side) for side in SIDES}
        for side, features in self._features.items():
            if not any(isinstance(spec, TextFeature) for spec in features.values()):
                raise MissingStage(
                    f"{self.folder}: its {side} tower reads no text, which is all that mteb has"
                )
        self._encoders: dict[Side, Encode] = {
            side: onnx_encoder(self.folder / TOWERS[side], threads) for side in SIDES
        }
        self._console = Console(file=io.StringIO())

    def encode(self, inputs: Any, *, prompt_type: Any = None, **kwargs: Any) -> Vectors:
        """Vectors (B, D) of queries or documents.

        Args:
            inputs: batches with a list of texts under `text` (version 2), or texts (version 1), or documents
                with `title` and `text`.
            prompt_type: `document` or `passage` for documents; all else is read as queries.
            kwargs: of the task; not used.
        """
        kind = getattr(prompt_type, "value", prompt_type)
        return self._encode("item" if kind in DOCUMENT else "query", _records(inputs))

    def encode_queries(self, queries: Sequence[Any], **kwargs: Any) -> Vectors:
        """Vectors (B, D) of queries."""
        return self._encode("query", _records(queries))

    def encode_corpus(self, corpus: Any, **kwargs: Any) -> Vectors:
        """Vectors (B, D) of documents with `title` and `text`: a list of them, or a list for each key."""
        if isinstance(corpus, Mapping):
            corpus = [dict(zip(corpus, row, strict=True)) for row in zip(*corpus.values(), strict=True)]
        return self._encode("item", _records(corpus))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores (B, C) of each vector (B, D) with each of the others (C, D): inner products."""
        return _matrix(embeddings1) @ _matrix(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores (B,) of each vector (B, D) with the one in the same place (B, D)."""
        return (_matrix(embeddings1) * _matrix(embeddings2)).sum(dim=1)

    @property
    def mteb_model_meta(self) -> Any:
        """The description of the model, which `mteb` stores beside its results: a `ModelMeta`.

        Raises:
            MissingStage: `mteb` is not installed.
        """
        fields = self.description()
        try:
            from mteb.models.model_meta import ModelMeta
        except ImportError:
            try:
                from mteb.model_meta import ModelMeta
            except ImportError:
                raise MissingStage("the description of a model needs mteb: pip install mteb") from None
            fields["framework"] = []  # version 1 does not know ONNX
        return ModelMeta(**{name: value for name, value in fields.items() if name in ModelMeta.model_fields})

    def description(self) -> dict[str, Any]:
        """The fields of `ModelMeta`; None where a bundle does not say."""
        manifest = self.manifest
        size = sum((self.folder / TOWERS[side]).stat().st_size for side in SIDES)
        texts = [each for each in self._features["item"].values() if isinstance(each, TextFeature)]
        unknown = (
            "loader", "release_date", "languages", "n_parameters", "n_active_parameters", "license",
            "public_training_code", "public_training_data", "training_datasets",
        )  # fmt: skip
        return {
            **dict.fromkeys(unknown),
            "name": f"twinspire/{manifest.name}",
            "revision": manifest.bundle_version,
            "memory_usage_mb": size / 2**20,
            "max_tokens": float(max(spec.max_length for spec in texts)),  # characters
            "embed_dim": manifest.dimension,
            "open_weights": True,
            "framework": ["ONNX"],
            "similarity_fn_name": SIMILARITY[manifest.score.kind],
            "use_instructions": False,
        }

    def _encode(self, side: Side, records: Sequence[Mapping[str, Any]]) -> Vectors:
        if not records:
            return np.empty((0, self.manifest.dimension), np.float32)
        features = self._features[side]
        texts = [name for name, spec in features.items() if isinstance(spec, TextFeature)]
        values = {
            name: [_value(name, spec, each, alone=len(texts) == 1) for each in records]
            for name, spec in features.items()
        }
        return encode_all(self._encoders[side], self._inputs[side], values, self._console, "texts")


def _matrix(vectors: Any) -> Tensor:
    """Vectors (B, D), or one vector (D,), as a matrix."""
    found = torch.as_tensor(vectors, dtype=torch.float32)
    return found.reshape(-1, found.shape[-1])


def _records(inputs: Iterable[Any]) -> list[Mapping[str, Any]]:
    """One mapping with `text`, and maybe `title`, for each text or document."""
    records: list[Mapping[str, Any]] = []
    for each in inputs:
        if isinstance(each, str):
            records.append({TEXT: each})
        elif isinstance(each[TEXT], str):
            title = str(each.get(TITLE) or "").strip()
            records.append({**each, TEXT: f"{title} {each[TEXT]}".strip()})
        else:  # a batch of version 2, whose texts of documents hold the titles
            keys = [key for key, column in each.items() if len(column) == len(each[TEXT])]
            rows = zip(*(each[key] for key in keys), strict=True)
            records += [dict(zip(keys, row, strict=True)) for row in rows]
    return records


def _value(name: str, spec: FeatureSpec, record: Mapping[str, Any], alone: bool) -> Any:
    """A record's value of a feature; absent for all that `mteb` does not have.

    Args:
        alone: whether the tower reads no other text; otherwise each one has the key that its column names.
    """
    if isinstance(spec, TextFeature):
        return str(record[TEXT] if alone else record.get(spec.column, record.get(name, record[TEXT])))
    if isinstance(spec, HistoryFeature) or (isinstance(spec, CategoryFeature) and spec.multi):
        return []
    return "" if isinstance(spec, IdFeature) else None
