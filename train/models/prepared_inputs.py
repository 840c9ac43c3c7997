"""The tower inputs of all queries or all items in memory. Texts are hashed before training."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from twinspire.protos.features import (
    BESIDE,
    BOTH,
    CODE_POINTS,
    FIRST_KNOWN,
    ITEM_VOCABULARY,
    Array,
    Arrays,
    FeatureSpec,
    HistoryFeature,
    Schema,
    Side,
    TextFeature,
    TowerInputs,
)
from twinspire.protos.inputs.events import TIMES, UNKNOWN_TIME
from twinspire.protos.inputs.texts import code_point_rows, folded
from twinspire.train.data.batches import Spans
from twinspire.train.data.long_arrays import ArrayWriter, gather, pieces
from twinspire.train.data.ranges import compact, concatenate_ranges, range_starts
from twinspire.train.data.training_data import Histories
from twinspire.train.models.encoders import TextBags
from twinspire.train.models.sequence_encoders import Windows
from twinspire.train.models.text_hashing import WordHashing
from twinspire.train.models.towers import Inputs

_CHUNK = 1024  # texts hashed at a time


@dataclass(frozen=True)
class HashedTexts:
    """The bags of all texts, concatenated: text n is `rows[starts[n]:starts[n + 1]]`, with its counts."""

    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]

    def bags(self, index: npt.NDArray[np.int64]) -> TextBags:
        """The texts at `index`, in that order."""
        begin = self.starts[index]
        lengths = self.starts[index + 1] - begin
        place = concatenate_ranges(begin, lengths)
        return TextBags(
            torch.from_numpy(self.rows[place]),
            torch.from_numpy(self.counts[place]),
            torch.from_numpy(range_starts(lengths).astype(np.int32)),
        )


def hash_texts(texts: Sequence[str], max_length: int, hashing: WordHashing) -> HashedTexts:
    """Hash all texts, in chunks of similar length."""
    normalised = folded(texts, max_length)
    order = np.argsort([*map(len, normalised)], kind="stable")
    counted: list[tuple[npt.NDArray[Any], ...]] = []
    for at in range(0, len(order), _CHUNK):
        chunk = order[at : at + _CHUNK]
        with torch.inference_mode():
            rows = hashing(torch.from_numpy(code_point_rows([normalised[n] for n in chunk]))).numpy()
        text, place = np.nonzero(rows)
        key, count = np.unique(chunk[text] << 32 | rows[text, place], return_counts=True)
        counted.append((key, count))
    keys = np.concatenate([key for key, _ in counted]) if counted else np.empty(0, np.int64)
    counts = np.concatenate([count for _, count in counted]) if counted else np.empty(0, np.int64)
    by_text = np.argsort(keys, kind="stable")
    sizes = np.bincount(keys >> 32, minlength=len(texts))
    return HashedTexts(
        (keys[by_text] & 0xFFFFFFFF).astype(np.int32),
        counts[by_text].astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
    )


class PreparedHistories:
    """The histories of all queries as rows of the known items; unknown items are skipped.

    Args:
        max_length: a longer history keeps its newest items.
    """

    def __init__(self, histories: Histories, known: Sequence[str], max_length: int) -> None:
        row_of = {item: FIRST_KNOWN + n for n, item in enumerate(known)}
        rows = np.array([row_of.get(item, 0) for item in histories.ids], np.int32)
        run = ArrayWriter(np.int32)
        for piece in pieces(histories.run):
            run.append(rows[piece][rows[piece] != 0])
        self.run = run.finish()
        # Whole seconds of the events in `run`, as `TowerInputs` returns them.
        times = histories.times
        if times is not None:
            times = np.floor(times[rows[histories.run] != 0]).astype(np.int64)
        self.run_times = times
        self.begin, self.end = histories.read_from, histories.end
        if len(self.run) < len(histories.run):
            kept = _places(rows, histories.run)
            self.begin, self.end = gather(kept, self.begin), gather(kept, self.end)
        self.max_length = max_length

    def lengths(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(B,), integers: the number of items of each history, as far as `rows` returns them."""
        begin, end = self._newest(index)
        return end - begin

    def rows(self, index: npt.NDArray[np.int64]) -> torch.Tensor:
        """int64 (B, L): newest last, 0 in front, as `TowerInputs` returns them."""
        return self._aligned(self.run, 0, *self._newest(index), 1)

    def times(self, index: npt.NDArray[np.int64], spans: Spans | None = None) -> torch.Tensor:
        """int64, seconds since 1970 of the events: of the shape of `rows`, or of the rows of `windows`."""
        assert self.run_times is not None
        if spans is None:
            return self._aligned(self.run_times, UNKNOWN_TIME, *self._newest(index), 1)
        return self._aligned(self.run_times, UNKNOWN_TIME, spans.begin, spans.end, _width(spans))

    def windows(self, spans: Spans) -> Windows:
        """The windows of a batch, and the position of each record in them."""
        width = _width(spans)
        rows = self._aligned(self.run, 0, spans.begin, spans.end, width)
        newer = spans.end[spans.window] - spans.last  # items of the window after the record's history
        places = spans.window * width + width - 1 - newer
        return Windows(rows, torch.from_numpy(places))

    def _newest(self, index: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where in `run` the newest items of each history begin and end."""
        return np.maximum(self.begin[index], self.end[index] - self.max_length), self.end[index]

    @staticmethod
    def _aligned(
        run: npt.NDArray[np.integer],
        filling: int,
        begin: npt.NDArray[np.int64],
        end: npt.NDArray[np.int64],
        min_width: int,
    ) -> torch.Tensor:
        """int64 (B, L): ranges of `run`, aligned to the last column; L is at least `min_width`."""
        lengths = end - begin
        width = max(min_width, int(lengths.max(initial=0)))
        columns = np.arange(width) - (width - lengths)[:, None]  # (B, L), below 0 in front
        source = np.where(columns >= 0, begin[:, None] + columns, 0)
        run = run if len(run) else np.zeros(1, np.int64)
        return torch.from_numpy(np.where(columns >= 0, run[source], filling).astype(np.int64, copy=False))


def _width(spans: Spans) -> int:
    """Columns of the windows: the items of the longest, and the empty history before it."""
    return int((spans.end - spans.begin).max(initial=0)) + 1


def _places(rows: npt.NDArray[np.int32], run: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """(E + 1,): the number of known items among the first items of a run, from none of them to all E.

    Args:
        rows: of each item in the vocabulary, 0 where it is not known.
    """
    places = ArrayWriter(compact(np.array([len(run)])).dtype)
    places.append(np.zeros(1, np.int64))
    count = 0
    for piece in pieces(run):
        places.append(count + np.cumsum(rows[piece] != 0))
        count += int(np.count_nonzero(rows[piece]))
    return places.finish()


class PreparedInputs:
    """The tower inputs of all records of one side.

    Args:
        values: feature name -> raw values of all records.
        encoded: feature name -> float32 (N, H), texts that a pretrained encoder has encoded; they take the
            place of its tokens.
    """

    def __init__(
        self,
        schema: Schema,
        side: Side,
        values: Mapping[str, Sequence[Any]],
        hashing: WordHashing,
        encoded: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        self.texts: dict[str, HashedTexts] = {}
        self.histories: dict[str, PreparedHistories] = {}
        rest: dict[str, FeatureSpec] = {}
        for name, spec in getattr(schema, side).items():
            is_text = isinstance(spec, TextFeature)
            if is_text and spec.input == BOTH:
                self.texts[f"{name}{BESIDE}"] = hash_texts(values[name], spec.longest, hashing)
            if name in encoded:
                continue
            if is_text and spec.input == CODE_POINTS:
                self.texts[name] = hash_texts(values[name], spec.longest, hashing)
            elif isinstance(spec, HistoryFeature):
                histories, known = values[name], schema.vocabularies[ITEM_VOCABULARY]
                assert isinstance(histories, Histories)
                self.histories[name] = PreparedHistories(histories, known, spec.longest)
            else:
                rest[name] = spec
        given = TowerInputs(side, rest, schema.vocabularies, schema.folder).to_arrays(values)
        self.arrays: Arrays = {**given, **encoded}
        self.size = len(next(iter(values.values())))

    def __len__(self) -> int:
        return self.size

    def only_text(self, name: str, renamed: str) -> Self:
        """The same records with one of their hashed texts alone, under another name."""
        found = copy.copy(self)
        found.texts = {renamed: self.texts[name]}
        found.histories, found.arrays = {}, {}
        return found

    def lengths(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 (B,): for each record the positions of its longest history, 0 without."""
        found = np.zeros(len(index), np.int64)
        for histories in self.histories.values():
            np.maximum(found, histories.lengths(index), out=found)
        return found

    def batch(self, index: npt.NDArray[np.int64], spans: Spans | None = None) -> Inputs:
        """The inputs of the records at `index`, in that order.

        Args:
            index: int64 (B,).
        """
        inputs: dict[str, Any] = {name: corpus.bags(index) for name, corpus in self.texts.items()}
        for name, corpus in self.histories.items():
            inputs[name] = corpus.rows(index) if spans is None else corpus.windows(spans)
            if corpus.run_times is not None:
                inputs[f"{name}{TIMES}"] = corpus.times(index, spans)
        return inputs | {name: torch.from_numpy(a[index]) for name, a in self.arrays.items()}
