"""The towers of an experiment.

    architecture = architecture_of(experiment.tower)
    towers = architecture.build(schema)                                   before any data
    queries = architecture.prepare(schema, "query", data.queries)      once, before training
    architecture.initialize(towers, schema, data, (queries, items), seed)
    architecture.fit_unseen(towers, items, data.counts())    after training

Each `[tower] kind` is the `ARCHITECTURE` of a module of that name in `train/models/architectures/`: it says
how a text, an id or a history is encoded, what the two towers share, and how the two vectors are compared.
"""

import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from twinspire.protos.features import (
    FIRST_KNOWN,
    ITEM_VOCABULARY,
    CategoryFeature,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
    TextFeature,
)
from twinspire.train.config.history_towers import HistoryTower
from twinspire.train.config.towers import TowerConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.encoders import CategoryEncoder, HashedTextEncoder, NumberEncoder
from twinspire.train.models.placement import Place, as_given
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.sequence_encoders import IdEncoder, PoolingEncoder, item_table
from twinspire.train.models.text_hashing import WordHashing
from twinspire.train.models.towers import ContentFallback, Head, ItemDotHead, QueryDotHead, Tower

Towers = tuple[Tower, Tower]
Prepared = tuple[PreparedInputs, PreparedInputs]  # all queries, all items
EncoderFactories = Mapping[type, Callable[[], nn.Module]]  # class of a feature -> its encoder
Config = TypeVar("Config", bound=TowerConfig)
Report = Callable[[str], None]  # receives lines about what takes long


def silent(line: str) -> None:
    """A `Report` that drops its lines."""


class Architecture(ABC, Generic[Config]):
    """One kind of towers.

    Args:
        report: receives lines about the progress where that takes long.
        place: moves tensors to the device where frozen encoders compute.
    """

    ranks_untrained = False  # before the first step already; if so, a run measures the start as well

    def __init__(self, config: Config, report: Report, place: Place[Any]) -> None:
        self.config, self.report, self.place = config, report, place

    @abstractmethod
    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower with random weights, drawn from torch's global generator."""

    def hashing(self) -> WordHashing:
        """The word hashing of both towers; whole words are hashed only if the section has a key for that."""
        words, characters = getattr(self.config, "words", False), self.config.characters or ()
        return WordHashing(self.config.orders, words, self.config.buckets, characters)

    def prepare(self, schema: Schema, side: Side, values: Mapping[str, Sequence[Any]]) -> PreparedInputs:
        """The inputs of all records of a side, as the towers read them in training, in main memory.

        Args:
            values: feature name -> raw values of all records.
        """
        return PreparedInputs(schema, side, values, self.hashing())

    def files(self) -> tuple[str, ...]:
        """Paths in the folder of the schema that `build` reads; a run keeps a copy of each."""
        return ()

    def identity(self) -> str:
        """A hash of what the towers are built from besides the section and the data; by default empty."""
        return ""

    def describe(self) -> str:
        """What the towers are built from besides the section and the data, in words; by default empty."""
        return ""

    @property
    def shares_windows(self) -> bool:
        """Whether the query tower encodes all positions of a history at little more cost than the last."""
        return False

    def initialize(
        self, towers: Towers, schema: Schema, data: TrainingData, prepared: Prepared, seed: int
    ) -> None:
        """Set start values from the training data, other than those of number encoders; by default none.

        Args:
            towers: what `build` returned.
            prepared: all queries and all items, as `prepare` returned them.
        """

    def fit_unseen(self, towers: Towers, items: PreparedInputs, counts: npt.NDArray[np.int64]) -> bool:
        """After training, fit what stands for values that it has not seen; by default nothing.

        This covers item ids that are not in the training data, and event ages larger than any in it.

        Args:
            counts: (N,), training interactions of each item.

        Returns:
            Whether a tower was changed.
        """
        return False


def architecture_of(
    config: TowerConfig, report: Report = silent, place: Place[Any] = as_given
) -> Architecture[Any]:
    """The architecture of a `[tower]` section; towers are built of one in which every key is set."""
    complete = config.sequence() if isinstance(config, HistoryTower) else config
    module = importlib.import_module(f"twinspire.train.models.architectures.{complete.kind}")
    found: Architecture[Any] = module.ARCHITECTURE(complete, report, place)
    return found


def longest_window(schema: Schema) -> int:
    """Positions of the longest window: the longest history, and the empty history before it."""
    lengths = [spec.longest for spec in schema.query.values() if isinstance(spec, HistoryFeature)]
    return max(lengths, default=0) + 1


def feature_encoders(
    schema: Schema, side: Side, width: int, factories: EncoderFactories
) -> dict[str, nn.Module]:
    """An encoder of width H for each feature of a side, by name."""
    return {name: feature_encoder(schema, side, name, width, factories) for name in getattr(schema, side)}


def feature_encoder(
    schema: Schema, side: Side, name: str, width: int, factories: EncoderFactories
) -> nn.Module:
    """The encoder of one feature: that of `factories`, else a category or a number encoder."""
    spec = getattr(schema, side)[name]
    if type(spec) in factories:
        return factories[type(spec)]()
    if isinstance(spec, CategoryFeature):
        return CategoryEncoder(FIRST_KNOWN + len(schema.vocabularies[f"{side}.{name}"]), width)
    return NumberEncoder(width)


def text_and_id_factories(
    schema: Schema, text: Callable[[], nn.Module], ids: nn.Parameter
) -> EncoderFactories:
    """Factories of the encoders of texts, item ids and histories, by the class of the feature.

    Args:
        ids: a row for each item; an id is encoded as its row, a history as the mean of its rows.
    """
    return {
        TextFeature: text,
        IdFeature: partial(IdEncoder, ids),
        HistoryFeature: lambda: PoolingEncoder(ids, longest_window(schema), mean=True),
    }


def shared_item_table(schema: Schema, width: int, scale: float) -> nn.Parameter:
    """An embedding for each known item if any feature holds item ids; otherwise an empty table."""
    keys = {spec.vocabulary_key("query", name) for name, spec in schema.query.items()}
    keys |= {spec.vocabulary_key("item", name) for name, spec in schema.item.items()}
    known = len(schema.vocabularies[ITEM_VOCABULARY]) if ITEM_VOCABULARY in keys else 0
    return item_table(known, width if known else 0, scale)


def tanh_layers(widths: tuple[int, ...]) -> list[nn.Module]:
    """A linear layer and a tanh from each width to the next, with Xavier's uniform initialization."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return layers


def text_factory(hashing: WordHashing, buckets: int, width: int) -> EncoderFactories:
    """Encoders of texts that share one table."""
    table = nn.Parameter(torch.randn(buckets, width) * 0.004)
    return {TextFeature: lambda: HashedTextEncoder(hashing, table, torch.ones(buckets))}


def content_fallback(schema: Schema, width: int, buckets: int, hashing: WordHashing) -> ContentFallback:
    """Encoders of an item's content, separate from the learned ones."""
    encoders = {
        name: feature_encoder(schema, "item", name, width, text_factory(hashing, buckets, width))
        for name, spec in schema.item.items()
        if not isinstance(spec, IdFeature)
    }
    return ContentFallback(encoders, width)


def inner_product_heads() -> tuple[Head, Head]:
    """The heads of query and item tower, with one radius for both."""
    radius = torch.ones(())
    return QueryDotHead(radius), ItemDotHead(radius)
