"""A side of the data set in memory, hashed and encoded once, gathered by row in every step.

Text is turned into code points and hashed once, before training; a step only copies rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from protos.features import Arrays, Schema, Side, TextFeature, TowerInputs, code_points, pad
from train.encoders import Bags
from train.hashing import WordHashing
from train.towers import Inputs

_CHUNK = 1024


@dataclass(frozen=True)
class HashedCorpus:
    """Texts as bags in one run: text n is `rows[starts[n]:starts[n + 1]]`, with its counts."""

    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]

    def bags(self, index: npt.NDArray[np.int64]) -> Bags:
        """The texts at `index`, in that order."""
        begin = self.starts[index]
        lengths = self.starts[index + 1] - begin
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        place = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Bags(
            torch.from_numpy(self.rows[place]),
            torch.from_numpy(self.counts[place]),
            torch.from_numpy(offsets[:-1].astype(np.int32)),
        )

    def document_frequency(self, buckets: int) -> npt.NDArray[np.int64]:
        """(buckets,): in how many texts each row occurs."""
        return np.bincount(self.rows, minlength=buckets)


def hash_texts(texts: Sequence[str], max_length: int, hashing: WordHashing) -> HashedCorpus:
    """All texts through the word hashing, in chunks of like length."""
    flat, lengths = code_points(texts, max_length)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = np.argsort(lengths, kind="stable")
    found: list[tuple[npt.NDArray[Any], ...]] = []
    for at in range(0, len(order), _CHUNK):
        chunk = order[at : at + _CHUNK]
        run = np.concatenate([flat[starts[n] : starts[n + 1]] for n in chunk])
        with torch.inference_mode():
            rows = hashing(torch.from_numpy(pad(run, lengths[chunk]))).numpy()
        text, place = np.nonzero(rows)
        key, count = np.unique(chunk[text] << 32 | rows[text, place], return_counts=True)
        found.append((key, count))
    keys = np.concatenate([key for key, _ in found]) if found else np.empty(0, np.int64)
    counts = np.concatenate([count for _, count in found]) if found else np.empty(0, np.int64)
    by_text = np.argsort(keys, kind="stable")
    sizes = np.bincount(keys >> 32, minlength=len(texts))
    return HashedCorpus(
        (keys[by_text] & 0xFFFFFFFF).astype(np.int32),
        counts[by_text].astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
    )


class Corpus:
    """All records of one side as tower inputs.

    Args:
        schema: features and vocabularies.
        side: whose features they are.
        values: feature name -> raw values of every record.
        hashing: of the towers that will read it.
    """

    def __init__(
        self, schema: Schema, side: Side, values: Mapping[str, Sequence[Any]], hashing: WordHashing
    ) -> None:
        features = getattr(schema, side)
        texts = {k: v for k, v in features.items() if isinstance(v, TextFeature)}
        rest = {k: v for k, v in features.items() if k not in texts}
        self.texts = {
            name: hash_texts(values[name], spec.max_length, hashing) for name, spec in texts.items()
        }
        self.arrays: Arrays = TowerInputs(side, rest, schema.vocabularies).to_arrays(values)
        self.size = len(next(iter(values.values())))

    def __len__(self) -> int:
        return self.size

    def batch(self, index: npt.NDArray[np.int64]) -> Inputs:
        """The records at `index`, in that order."""
        bags = {name: corpus.bags(index) for name, corpus in self.texts.items()}
        return bags | {name: torch.from_numpy(a[index]) for name, a in self.arrays.items()}
