"""Warm start: towers that begin with the weights of trained ones, whose vocabularies may be others.

A row of an embedding table moves with its value, and a value that the trained towers do not know begins with
their row of unknown ones. A new item id begins where the trained item tower places the item by its content
(`cold_start.py`). Parts that the end of a run fits anew, such as a linear model beside the towers, stay as
they are.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from twinspire.protos.features import (
    FIRST_KNOWN,
    ITEM_VOCABULARY,
    SIDES,
    UNKNOWN,
    Schema,
    Side,
)
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.architectures.clicks import FeedbackEncoder
from twinspire.train.models.encoders import CategoryEncoder, HashedTextEncoder
from twinspire.train.models.placement import to_device_of_module
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.tower_factory import Architecture, Towers
from twinspire.train.models.towers import PARTS, Tower

NEWCOMERS = "newcomers"  # the content fallback of a tower


def start_from(
    towers: Towers,
    schema: Schema,
    trained: tuple[Towers, Schema],
    data: TrainingData,
    items: PreparedInputs,
    architecture: Architecture[Any],
) -> None:
    """Give towers the weights of trained ones.

    Args:
        towers: of the same architecture and features, on any device.
        trained: towers and their schema.
        data: whose items `items` are, as `schema` encodes them.
    """
    others, known = trained
    with torch.no_grad():
        for side, tower, other in zip(SIDES, towers, others, strict=True):
            _copy(side, tower, schema, other, known)
        new = {*schema.vocabularies.get(ITEM_VOCABULARY, ())} - {*known.vocabularies.get(ITEM_VOCABULARY, ())}
        rows = np.array([row for row, each in enumerate(data.item_ids) if each in new], np.int64)
        item, other = towers[1], others[1]
        ids = dict(item.encoders.items()).get(item.id_name)
        if not len(rows) or other.newcomers is None or not isinstance(ids, IdEncoder):
            return
        values = {name: [column[row] for row in rows] for name, column in data.items.items()}
        unknown = architecture.prepare(known, "item", values).batch(np.arange(len(rows)))
        unknown = to_device_of_module(unknown, other)
        known_rows = cast(Tensor, unknown[other.id_name])
        content = other.newcomers(unknown, known_rows, other.encode_features(unknown))
        batch = to_device_of_module(items.batch(rows), item)
        places = cast(Tensor, batch[item.id_name])[:, 0]
        ids.table[places] = 0
        ids.table[places] = content.to(ids.table) - item.encode_features(batch)


def _copy(side: Side, tower: Tower, schema: Schema, other: Tower, known: Schema) -> None:
    """Copy all weights of one tower, rows of tables by their values."""
    vocabulary_of = dict(_tables(side, tower))
    source = other.state_dict()
    skipped = tuple(f"{part}." for part in (*PARTS, NEWCOMERS))
    for name, own in tower.state_dict().items():
        given = source.get(name)
        if given is None or name.startswith(skipped):
            continue
        if name in vocabulary_of:
            key = vocabulary_of[name]
            row_of = {value: row for row, value in enumerate(known.vocabularies[key], FIRST_KNOWN)}
            moved = [row_of.get(value, UNKNOWN) for value in schema.vocabularies[key]]
            given = given[[*range(FIRST_KNOWN), *moved]]
        if given.shape == own.shape:
            own.copy_(given)


def _tables(side: Side, tower: Tower) -> Iterator[tuple[str, str]]:
    """Name of a weight whose rows are values -> the key of their vocabulary."""
    for name, module in tower.named_modules():
        if isinstance(module, CategoryEncoder):
            yield f"{name}.embedding.weight", f"{side}.{name.rpartition('.')[2]}"
        elif isinstance(module, FeedbackEncoder):
            yield from ((f"{name}.tables.{each}", ITEM_VOCABULARY) for each in module.tables)
        elif not isinstance(module, HashedTextEncoder) and hasattr(module, "table"):
            yield f"{name}.table", ITEM_VOCABULARY
