"""A side of the data set in memory, hashed and encoded once, gathered by row in every step.

Text is turned into code points and hashed once, before training; a step only copies rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from protos.features import (
    FIRST_KNOWN,
    ITEM_VOCABULARY,
    Arrays,
    HistoryFeature,
    Schema,
    Side,
    TextFeature,
    TowerInputs,
    code_point_rows,
    folded,
)
from train.encoders import Bags
from train.hashing import WordHashing
from train.history import Windows
from train.problem import Histories
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
    read = folded(texts, max_length)
    order = np.argsort([*map(len, read)], kind="stable")
    found: list[tuple[npt.NDArray[Any], ...]] = []
    for at in range(0, len(order), _CHUNK):
        chunk = order[at : at + _CHUNK]
        with torch.inference_mode():
            rows = hashing(torch.from_numpy(code_point_rows([read[n] for n in chunk]))).numpy()
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


@dataclass(frozen=True)
class Spans:
    """Stretches of a run of histories that become one step's windows.

    Args:
        begin: int64 (W,), the first item of each window.
        end: int64 (W,), behind its last.
        window: int64 (B,), the window of each record.
        last: int64 (B,), behind the last item of each record's history; equal to the window's `begin`
            where the history is empty.
    """

    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    window: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]


class HistoryCorpus:
    """Histories as rows of the known items; what the vocabulary does not hold is skipped.

    Args:
        histories: of every query.
        known: the item vocabulary.
        max_length: items kept of a history, the newest.
    """

    def __init__(self, histories: Histories, known: Sequence[str], max_length: int) -> None:
        row_of = {item: FIRST_KNOWN + n for n, item in enumerate(known)}
        rows = np.array([row_of.get(item, 0) for item in histories.ids], np.int64)[histories.run]
        kept = np.concatenate([[0], np.cumsum(rows != 0)])
        self.run = rows[rows != 0]
        self.begin = kept[histories.begin]
        self.end = kept[histories.end]
        self.max_length = max_length

    def rows(self, index: npt.NDArray[np.int64]) -> torch.Tensor:
        """int64 (B, L): newest last, 0 in front, as `TowerInputs` gives them."""
        begin = np.maximum(self.begin[index], self.end[index] - self.max_length)
        return self._aligned(begin, self.end[index], 1)

    def windows(self, spans: Spans) -> Windows:
        """The windows of some spans, with the place of each record in them."""
        width = int((spans.end - spans.begin).max(initial=0)) + 1
        rows = self._aligned(spans.begin, spans.end, width)
        behind = spans.end[spans.window] - spans.last
        places = spans.window * width + width - 1 - behind
        return Windows(rows, torch.from_numpy(places))

    def _aligned(self, begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64], least: int) -> torch.Tensor:
        """int64 (B, L): stretches of the run, ending in the last column; L is at least `least`."""
        lengths = end - begin
        width = max(least, int(lengths.max(initial=0)))
        columns = np.arange(width) - (width - lengths)[:, None]  # (B, L), below 0 in front
        source = np.where(columns >= 0, begin[:, None] + columns, 0)
        run = self.run if len(self.run) else np.zeros(1, np.int64)
        return torch.from_numpy(np.where(columns >= 0, run[source], 0))


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
        histories = {k: v for k, v in features.items() if isinstance(v, HistoryFeature)}
        rest = {k: v for k, v in features.items() if k not in texts and k not in histories}
        self.texts = {
            name: hash_texts(values[name], spec.max_length, hashing) for name, spec in texts.items()
        }
        self.histories: dict[str, HistoryCorpus] = {}
        for name, spec in histories.items():
            told = values[name]
            assert isinstance(told, Histories)
            self.histories[name] = HistoryCorpus(told, schema.vocabularies[ITEM_VOCABULARY], spec.max_length)
        self.arrays: Arrays = TowerInputs(side, rest, schema.vocabularies).to_arrays(values)
        self.size = len(next(iter(values.values())))

    def __len__(self) -> int:
        return self.size

    def batch(self, index: npt.NDArray[np.int64], spans: Spans | None = None) -> Inputs:
        """The records at `index`, in that order.

        Args:
            spans: where their histories share windows.
        """
        inputs: dict[str, Any] = {name: corpus.bags(index) for name, corpus in self.texts.items()}
        for name, corpus in self.histories.items():
            inputs[name] = corpus.rows(index) if spans is None else corpus.windows(spans)
        return inputs | {name: torch.from_numpy(a[index]) for name, a in self.arrays.items()}
