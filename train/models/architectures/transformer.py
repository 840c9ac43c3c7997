"""`[tower] kind = "transformer"`: a pretrained text encoder on a side, or as the teacher of a hashed one.

A hashed tower first learns to give texts the vectors that the encoder gives them (`align`): the first half of
distillation; the training of the pairs, which contrasts them, is the second. Reimers and Gurevych 2020
("Making monolingual sentence embeddings multilingual using knowledge distillation") train students likewise,
on the squared distance; between unit vectors that is 2 - 2 cos.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twinspire.protos.errors import ConfigError
from twinspire.protos.features import BESIDE, BOTH, CODE_POINTS, SIDES, Schema, Side, TextFeature
from twinspire.train.config.pretrained_tower import TransformerTower
from twinspire.train.data.training_data import Rows, TrainingData
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.initialization import inverse_document_frequency
from twinspire.train.models.optimiser import adam
from twinspire.train.models.placement import to_device_of, to_device_of_module
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.pretrained.encoder import (
    EncodedTexts,
    PretrainedTextEncoder,
    empty_encoder,
    load_encoder,
)
from twinspire.train.models.pretrained.folder import PretrainedFolder
from twinspire.train.models.tower_factory import (
    Architecture,
    Prepared,
    Towers,
    feature_encoders,
    shared_item_table,
    text_and_id_factories,
)
from twinspire.train.models.towers import CosineHead, Residual, Tower

LEARNING_RATE = 2e-3  # peak
WEIGHTS_FACTOR = 10.0  # weights of n-grams are of size 1 to 3, entries of matrices far smaller
BATCHES = (32, 512)  # texts in a step, smallest and largest
WARM_UP = 0.1  # of all steps
EPOCH_STEPS = 64  # steps that an epoch has, nearly, as far as the sizes of a batch allow


class TransformerArchitecture(Architecture[TransformerTower]):
    """Each side is the encoder or a bag of hashed words and n-grams, then a residual layer of its own.

    The residual layers start at zero, so before training the pretrained sides are the encoder as it is, or
    its vectors plus those of the words beside it. Both sides share the encoder, and the hashed table.
    """

    ranks_untrained = True  # as the encoder, or as what has learned its vectors

    @cached_property
    def folder(self) -> PretrainedFolder:
        """The folder that the section names."""
        return PretrainedFolder.read(Path(self.config.model))

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower.

        Raises:
            ConfigError: the model cannot be loaded, or `max_length` is more than it reads.
        """
        is_source = schema.folder == Path(self.config.model)
        folder = self.folder if is_source else PretrainedFolder.read(schema.folder)
        encoder: PretrainedTextEncoder | None = None
        if self.config.sides:
            _check_lengths(schema, self.config.sides, folder)
            # The folder of a run has no weights: those of the towers are loaded afterwards.
            make = load_encoder if is_source else empty_encoder
            encoder = make(folder)
        table = nn.Parameter(torch.empty(0))
        if self.config.is_hashed:
            table = nn.Parameter(torch.randn(self.config.buckets, folder.width) / folder.width**0.5)
        ids = shared_item_table(schema, folder.width, 0.01)
        query, item = (self._tower(schema, side, folder.width, encoder, table, ids) for side in SIDES)
        return query, item

    def _tower(
        self,
        schema: Schema,
        side: Side,
        width: int,
        encoder: PretrainedTextEncoder | None,
        table: nn.Parameter,
        ids: nn.Parameter,
    ) -> Tower:
        hidden = self.config.query_hidden if side == "query" else self.config.item_hidden

        def hashed() -> nn.Module:
            weights = nn.Parameter(torch.ones(len(table)))
            return HashedTextEncoder(
                self.hashing(), table, weights, side == "item", normalise=True, from_scratch=True
            )

        def pretrained() -> nn.Module:
            assert encoder is not None
            return encoder

        text = pretrained if side in self.config.sides else hashed
        factories = text_and_id_factories(schema, text, ids)
        deep = Residual(width, hidden) if hidden else nn.Identity()
        encoders = feature_encoders(schema, side, width, factories)
        beside = [name for name, spec in _texts(schema, side).items() if spec.input == BOTH]
        encoders |= {f"{name}{BESIDE}": hashed() for name in beside}
        return Tower(encoders, deep, CosineHead())

    def prepare(self, schema: Schema, side: Side, values: Mapping[str, Sequence[Any]]) -> PreparedInputs:
        """The inputs of all records; texts for the encoder are encoded here, once for all epochs."""
        encoded: dict[str, npt.NDArray[np.float32]] = {}
        if side in self.config.sides:
            encoded = self._teacher_vectors(_texts(schema, side), values)
        return PreparedInputs(schema, side, values, self.hashing(), encoded)

    def files(self) -> tuple[str, ...]:
        """The description of the encoder."""
        return self.folder.files

    def identity(self) -> str:
        """A hash of the pretrained model."""
        return self.folder.identity()

    def describe(self) -> str:
        """The pretrained model and its licence."""
        sides = " and ".join(f"{side} side" for side in self.config.sides)
        beside = ", hashed words beside it" if self.config.words_beside else ""
        use = f"frozen, on the {sides}{beside}" if sides else "as the teacher of both sides"
        return f"{self.folder.describe()}; {use}"

    def initialize(
        self, towers: Towers, schema: Schema, data: TrainingData, prepared: Prepared, seed: int
    ) -> None:
        """Align the hashed sides with the encoder's vectors of the training queries and of the items.

        A hashed query tower beside a pretrained item tower learns those of the items, too, read as queries:
        many words of later queries are in no training query, but in the text of an item.
        Words beside an encoder start as a random projection of TF-IDF, with the weights of `bag`.
        """
        if not self.config.is_hashed:
            return
        tasks = []
        catalogue = self._catalogue(schema, data, prepared)
        for side, tower, inputs in zip(SIDES, towers, prepared, strict=True):
            _weigh_by_rarity(tower, catalogue)
            if side in self.config.sides or not self.config.align_epochs:
                continue
            rows = np.unique(data.parts["train"].query) if side == "query" else np.arange(data.item_count)
            values = data.queries if side == "query" else data.items
            features = _texts(schema, side)
            taken = {name: [values[name][row] for row in rows] for name in features}
            total = np.sum([*self._teacher_vectors(features, taken).values()], axis=0)
            tasks.append(AlignmentTask(tower, inputs, rows, _unit(total)))
            if side == "query" and "item" in self.config.sides:
                tasks += [
                    _task_of_items(tower, schema, name, catalogue, prepared[1].arrays[name])
                    for name in _texts(schema, "item")
                ]
        if tasks:
            align(tasks, self.config.align_epochs, seed, self.report)

    def _catalogue(self, schema: Schema, data: TrainingData, prepared: Prepared) -> PreparedInputs:
        """The hashed texts of the items, whatever the item tower reads."""
        if prepared[1].texts:
            return prepared[1]
        features = {
            name: replace(spec, input=CODE_POINTS, max_length=spec.longest)
            for name, spec in _texts(schema, "item").items()
        }
        return PreparedInputs(Schema(schema.query, {**features}), "item", data.items, self.hashing())

    @cached_property
    def _encoded(self) -> EncodedTexts:
        precision = self.config.encoding
        return EncodedTexts(self.folder, report=self.report, precision=precision, place=self.place)

    def _teacher_vectors(
        self, features: Mapping[str, TextFeature], values: Mapping[str, Sequence[str]]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Feature name -> vectors (N, H) of its texts."""
        return {name: self._encoded.vectors(values[name], spec) for name, spec in features.items()}


ARCHITECTURE = TransformerArchitecture


@dataclass(frozen=True)
class AlignmentTask:
    """Texts for one tower, and the teacher's vectors of them.

    Args:
        tower: that learns; its vectors have unit length.
        inputs: of all records that the texts are of.
        rows: int64 (T,), distinct records to learn from.
        targets: float32 (T, D), of unit length, or zero for a text that the teacher cannot read.
    """

    tower: Tower
    inputs: PreparedInputs
    rows: Rows
    targets: npt.NDArray[np.float32]


def align(
    tasks: Sequence[AlignmentTask], epochs: int, seed: int, report: Callable[[str], None] = lambda line: None
) -> list[float]:
    """Train towers towards their teacher's vectors, in batches of one task each, in random order.

    Args:
        tasks: of towers that may share parameters, or be the same.
        epochs: over all texts.

    Returns:
        The mean loss of each epoch, 1 - cos.
    """
    random = np.random.default_rng(seed)
    towers = [task.tower for task in tasks]
    optimiser = adam(towers, LEARNING_RATE, weights_factor=WEIGHTS_FACTOR)
    size = int(np.clip(sum(len(task.rows) for task in tasks) // EPOCH_STEPS, *BATCHES))
    steps = epochs * sum(-(-len(task.rows) // size) for task in tasks)
    steps = max(2, steps)
    rise = WARM_UP if WARM_UP * steps != 1 else 2 * WARM_UP  # torch divides by the steps after the first
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [group["lr"] for group in optimiser.param_groups], steps, pct_start=rise
    )
    was_training = {module: module.training for tower in towers for module in tower.modules()}
    for tower in towers:
        tower.train()
    means: list[float] = []
    for epoch in range(epochs):
        losses: list[float] = []
        for task, places in _batches(tasks, size, random):
            inputs = to_device_of_module(task.inputs.batch(task.rows[places]), task.tower)
            vectors: Tensor = task.tower(inputs)
            targets = to_device_of(task.targets[places], vectors)
            loss = (1 - (vectors * targets).sum(dim=1)).mean()  # of 1 - cos
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        means.append(float(np.mean(losses)))
        report(f"alignment, epoch {epoch + 1} of {epochs}: mean cosine to the teacher {1 - means[-1]:.3f}")
    for module, training in was_training.items():
        module.training = training
    return means


def _batches(
    tasks: Sequence[AlignmentTask], size: int, random: np.random.Generator
) -> list[tuple[AlignmentTask, Rows]]:
    """Batches of all tasks in random order: places in `rows` and `targets` of each."""
    found: list[tuple[AlignmentTask, Rows]] = []
    for task in tasks:
        order = random.permutation(len(task.rows))
        found += [(task, order[at : at + size]) for at in range(0, len(order), size)]
    return [found[n] for n in random.permutation(len(found))]


def _task_of_items(
    tower: Tower, schema: Schema, name: str, catalogue: PreparedInputs, vectors: npt.NDArray[np.float32]
) -> AlignmentTask:
    """The texts of all items, for a query tower, which reads them as the first of its texts.

    Args:
        tower: of the queries; its other features are left out.
        catalogue: the hashed texts of the items.
        vectors: (N, H), by the encoder.
    """
    reader = next(iter(_texts(schema, "query")))
    alone = Tower({reader: tower.encoders[reader]}, tower.deep, tower.head)
    hashed = name if name in catalogue.texts else f"{name}{BESIDE}"
    inputs, rows = catalogue.only_text(hashed, reader), np.arange(len(catalogue))
    return AlignmentTask(alone, inputs, rows, _unit(vectors))


def _unit(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(N, H) scaled to unit length; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def _texts(schema: Schema, side: Side) -> dict[str, TextFeature]:
    return {name: spec for name, spec in getattr(schema, side).items() if isinstance(spec, TextFeature)}


def _weigh_by_rarity(tower: Tower, inputs: PreparedInputs) -> None:
    """Start the weights of n-grams and words as the square root of their IDF, as of `bag`."""
    for encoder in tower.encoders.values():
        if isinstance(encoder, HashedTextEncoder):
            idf = inverse_document_frequency(inputs, len(encoder.table))
            with torch.no_grad():
                encoder.weights[1:] = torch.from_numpy(np.sqrt(idf[1:]))


def _check_lengths(schema: Schema, sides: Sequence[Side], folder: PretrainedFolder) -> None:
    for side in sides:
        for name, spec in _texts(schema, side).items():
            if spec.max_length > folder.max_tokens:
                raise ConfigError(
                    f"{side}.{name}.max_length: {folder.path.name} reads up to {folder.max_tokens} tokens, "
                    f"got {spec.max_length}"
                )
