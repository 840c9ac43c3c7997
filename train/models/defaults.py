"""What an experiment leaves open, chosen from its data.

    chosen = from_data(experiment, data)
    chosen.experiment                        every key has a value
    chosen.lines()                           what was chosen, and why

A key whose default is `FROM_DATA` follows from the texts, the number of items and the number of training
pairs. A key that the TOML sets keeps its value. Nothing here reads a query of validation or test. The choice
is the same for the same data: the key of a run covers the settings as they are in the TOML, the data, and
this code. The result goes into the run's parameters and into the model's description, which export reads.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.protos.errors import ConfigError
from twinspire.protos.features import (
    LONGEST_TEXT,
    SIDES,
    USUAL_HISTORY,
    FeatureSpec,
    HistoryFeature,
    Side,
    TextFeature,
    TimeFeature,
)
from twinspire.protos.files.tokenizer import TOKENIZER, open_tokenizer
from twinspire.protos.lexical import unspaced_share
from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.config import Experiment
from twinspire.train.config.history_towers import HistoryTower
from twinspire.train.config.losses import FullSoftmax, InBatchSoftmax, LossConfig, learns_from_negatives
from twinspire.train.config.pretrained_tower import MOST_BUCKETS, TransformerTower
from twinspire.train.config.towers import BagTower
from twinspire.train.data.training_data import MOST_READ, READ_SEED, Rows, TrainingData
from twinspire.train.models.prepared_inputs import hash_texts
from twinspire.train.models.pretrained.folder import PretrainedFolder
from twinspire.train.models.text_hashing import WordHashing

Candidates = dict[str, tuple[Any, str]]  # key -> value, and why

SAMPLE = 10_000  # texts of a feature that are looked at
TOKENIZED_SHARE = 5  # every fifth text is tokenized: that takes longer than counting characters
PERCENTILE = 99
SHORTEST, LONGEST = 256, 4096  # bounds of `max_length`: a tower's time grows with the characters it reads
MULTIPLE = 64  # `max_length` is a multiple of it, unless it is a bound
LONGEST_HISTORY = 512  # items; a query of attention takes time for each
CHARACTERS_SHARE = 0.01  # of letters of scripts without spaces, from which on these are hashed as characters
CHARACTERS = (1, 2)
DIMENSIONS = (64, 512)  # smallest and largest
# Items up to which so large a share of the dimensions starts as latent semantic analysis: the more items, the
# less of their texts it holds, and what is left tells rare words apart. Beyond, `LATENT` dimensions are.
LATENT_SHARES = ((2048, 1.0), (20_000, 0.5))
LATENT = 128
BUCKETS = (1024, 65_536)  # rows of the hashed table, smallest and largest
PROBE = 1 << 20  # rows of the table in which distinct n-grams are counted
HIDDEN = 1024  # width of the item tower's residual layer, given so many training pairs:
ENOUGH_PAIRS = 10_000
BATCHES = (32, 1024)  # pairs in a step, smallest and largest
# Coordinates of a linear model of histories, where there are more than `FEW_ITEMS`. Of SLIST on
# `online-retail-last`, where a line of an order hangs on the line before it, 256 keep nDCG@10 of .198 on
# validation, 512 keep .210, 1,024 keep .219, and all of them have .220. On `movielens` 128 are as good as all
# where the last event is held out. Where a random event is held out, the linear model has more weight, and
# 1,024 lose a little.
LINEAR = 1024
FEW_ITEMS = 2048  # up to these a linear model has as many coordinates as items, which loses nothing
# A sum over histories, as in configs/online-retail.toml.
SUM: Mapping[str, Any] = {"query_dropout": 0.5, "history_dropout": 0.8}
SUM_DECAY = 0.02
RECENT_POPULARITY = 128  # coordinates
# Items up to which a linear model has `LINEAR` coordinates. For more it has as many as need the same memory,
# a multiple of `MULTIPLE`; none above 320,000 items.
MAX_LINEAR_ITEMS = 20_000
# Items up to which a step scores all of them; its time and memory grow with the items that it scores.
MAX_SOFTMAX_ITEMS = 20_000
UNIFORM_NEGATIVES = 1024
SAMPLED = InBatchSoftmax(
    "in_batch_softmax", temperature=1.0, correction="logq", uniform_negatives=UNIFORM_NEGATIVES
)
EPOCH_STEPS = 32  # steps that an epoch has, nearly, as far as the sizes of a batch allow


@dataclass(frozen=True)
class Chosen:
    """An experiment with all keys set.

    Args:
        reasons: full key -> `value`, which was chosen, and `reason`.
    """

    experiment: Experiment
    reasons: Mapping[str, Mapping[str, Any]]

    def lines(self) -> list[str]:
        """A line for each chosen value."""
        return [f"{key} = {_shown(each['value'])}  ({each['reason']})" for key, each in self.reasons.items()]


def from_data(experiment: Experiment, data: TrainingData) -> Chosen:
    """Choose every key that the experiment leaves open."""
    reasons: dict[str, dict[str, Any]] = {}

    def complete(key: str, section: Any, make: Callable[[], Candidates]) -> Any:
        unset = [each.name for each in fields(section) if getattr(section, each.name) is FROM_DATA]
        candidates = make() if unset else {}
        unset = [name for name in unset if name in candidates]
        for name in unset:
            value, reason = candidates[name]
            reasons[f"{key}.{name}"] = {"value": value, "reason": reason}
        return dataclasses.replace(section, **{name: candidates[name][0] for name in unset})

    sides: dict[Side, dict[str, FeatureSpec]] = {
        side: {
            name: complete(
                f"{side}.{name}",
                spec,
                lambda: {"max_length": _max_length(experiment, data, side, name)},  # noqa: B023
            )
            if isinstance(spec, TextFeature | HistoryFeature)
            else spec
            for name, spec in getattr(experiment, side).items()
        }
        for side in SIDES
    }
    if experiment.loss is FROM_DATA:
        loss, why = _loss_of_histories(data)
        reasons["loss"] = {"value": loss.kind, "reason": why}
        experiment = dataclasses.replace(experiment, loss=loss)
    tower = experiment.tower
    if isinstance(tower, HistoryTower):
        found = _of_histories(data, experiment.query, tower)
        reasons |= {f"tower.{name}": {"value": v, "reason": why} for name, (v, why) in found.items()}
        tower = _checked(experiment, tower.sequence, {name: value for name, (value, _) in found.items()})
        for name, spec in sides["query"].items():
            if isinstance(spec, HistoryFeature) and spec.times and not tower.ages:
                sides["query"][name] = dataclasses.replace(spec, times=False)
                why = f'history = "{tower.history}", ages = false'
                reasons[f"query.{name}.times"] = {"value": False, "reason": why}
    tower = complete("tower", tower, lambda: _hashing(data, sides))
    if isinstance(tower, BagTower):
        hashed = tower
        tower = complete("tower", hashed, lambda: _sizes(hashed, data, sides["item"]))
    if isinstance(tower, TransformerTower) and tower.is_hashed:
        students = tower
        tower = complete("tower", students, lambda: {"buckets": _buckets(students, data, sides["item"])})
    training = complete("training", experiment.training, lambda: _training(experiment, data))
    made = {"query": sides["query"], "item": sides["item"], "tower": tower, "training": training}
    return Chosen(_checked(experiment, partial(dataclasses.replace, experiment), made), reasons)


def _checked(experiment: Experiment, make: Callable[..., Any], chosen: Mapping[str, Any]) -> Any:
    """What `make` returns for the chosen values; a ConfigError if keys that are set do not go with them."""
    try:
        return make(**chosen)
    except ValueError as error:
        raise ConfigError(f"{experiment.name}: {error}") from None


def _max_length(experiment: Experiment, data: TrainingData, side: Side, name: str) -> tuple[int, str]:
    """`max_length`: items, characters, or the tokens that a pretrained model reads; and why."""
    tower = experiment.tower
    spec = getattr(experiment, side)[name]
    if isinstance(spec, HistoryFeature):
        return _history_length(data) if isinstance(tower, HistoryTower) else (USUAL_HISTORY, "as usual")
    if not isinstance(tower, TransformerTower) or not spec.reads_tokens:
        return max_length(_lengths(data, side, name))
    folder = PretrainedFolder.read(Path(tower.model))
    tokens = open_tokenizer(folder.path / TOKENIZER, LONGEST_TEXT)
    texts = _sample(data, side, name)[::TOKENIZED_SHARE]
    cut = float(np.mean([len(tokens(text)) > folder.max_tokens for text in texts])) if texts else 0.0
    return folder.max_tokens, f"tokens, as many as {folder.path.name} reads; {cut:.1%} of the texts are cut"


def _history_length(data: TrainingData) -> tuple[int, str]:
    """The 99th percentile over users of their longest training history, rounded up and bounded; and why."""
    train = np.unique(data.parts["train"].of_some_users(MOST_READ, READ_SEED).query)
    histories = data.histories
    if histories is None or not len(train):
        return USUAL_HISTORY, "as usual"
    _, user = np.unique(histories.begin[train], return_inverse=True)
    longest = np.zeros(user.max() + 1, np.int64)
    np.maximum.at(longest, user, histories.end[train] - histories.begin[train])
    percentile = int(np.quantile(longest, PERCENTILE / 100, method="lower"))
    found = min(LONGEST_HISTORY, max(USUAL_HISTORY, -(-percentile // MULTIPLE) * MULTIPLE))
    cut = float(np.mean(longest > found))
    return found, f"items: {PERCENTILE} % of the users have up to {percentile:,}; {cut:.1%} are cut"


def max_length(lengths: Rows) -> tuple[int, str]:
    """The 99th percentile of the lengths (T,) of a feature's texts, rounded up and bounded; and why."""
    percentile = int(np.quantile(lengths, PERCENTILE / 100, method="lower")) if len(lengths) else 0
    found = min(LONGEST, max(SHORTEST, -(-percentile // MULTIPLE) * MULTIPLE))
    cut = float(np.mean(lengths > found)) if len(lengths) else 0.0
    bound = f", but no tower reads more than {LONGEST:,} by default" if percentile > LONGEST else ""
    reason = f"{PERCENTILE} % of the texts have up to {percentile:,} characters{bound}; {cut:.1%} are cut"
    return found, reason


def _lengths(data: TrainingData, side: Side, name: str) -> Rows:
    """Characters of the texts of a feature, before normalisation; of items, those of the served texts."""
    if side == "item" and name in data.catalogue_lengths:
        return data.catalogue_lengths[name]
    return np.array([len(text) for text in _sample(data, side, name)], np.int64)


def _sample(data: TrainingData, side: Side, name: str) -> list[str]:
    """Texts of the items, or of the queries of training pairs, evenly spread over all of them."""
    values: Sequence[Any] = data.queries[name] if side == "query" else data.items[name]
    rows = np.unique(data.parts["train"].query) if side == "query" else np.arange(data.item_count)
    return [values[row] for row in rows[:: max(1, -(-len(rows) // SAMPLE))]]


def _texts(features: Mapping[str, FeatureSpec]) -> dict[str, TextFeature]:
    return {name: spec for name, spec in features.items() if isinstance(spec, TextFeature)}


def _hashing(data: TrainingData, sides: Mapping[Side, Mapping[str, FeatureSpec]]) -> Candidates:
    """Which n-grams a text is a bag of."""
    texts = [text for side in SIDES for name in _texts(sides[side]) for text in _sample(data, side, name)]
    share = unspaced_share(texts)
    reason = f"{share:.1%} of the letters belong to scripts that are split into characters, such as Chinese"
    return {"characters": (CHARACTERS if share >= CHARACTERS_SHARE else (), reason)}


def _sizes(tower: BagTower, data: TrainingData, item: Mapping[str, FeatureSpec]) -> Candidates:
    """Sizes of tables and layers of a bag tower whose n-grams are known."""
    items, pairs = data.item_count, len(data.parts["train"].positive())
    dimension = tower.dimension
    if dimension is FROM_DATA:
        smallest, largest = DIMENSIONS
        dimension = max(smallest, min(largest, -(-items // smallest) * smallest), tower.latent or 0)
    shares = [share for most, share in LATENT_SHARES if items <= most]
    latent = int(dimension * shares[0]) if shares else min(LATENT, dimension)
    hidden = HIDDEN if pairs >= ENOUGH_PAIRS else 0
    return {
        "dimension": (dimension, f"{items:,} items, at least {DIMENSIONS[0]} and at most {DIMENSIONS[1]}"),
        "latent": (latent, f"{items:,} items"),
        **({"buckets": _buckets(tower, data, item)} if tower.buckets is FROM_DATA else {}),
        "item_hidden": (
            hidden,
            f"{pairs:,} training pairs, {'at least' if hidden else 'fewer than'} {ENOUGH_PAIRS:,}",
        ),
    }


def _of_histories(data: TrainingData, query: Mapping[str, FeatureSpec], tower: HistoryTower) -> Candidates:
    """The keys that a tower leaves open, as they suit the histories and the query."""
    items, own = data.item_count, tower.keys
    if items <= FEW_ITEMS:
        linear, size = items, f"at most {FEW_ITEMS:,}"
    elif items <= MAX_LINEAR_ITEMS:
        linear, size = LINEAR, f"more than {FEW_ITEMS:,} and at most {MAX_LINEAR_ITEMS:,}"
    else:
        linear = LINEAR * MAX_LINEAR_ITEMS // items // MULTIPLE * MULTIPLE
        size = f"more than {MAX_LINEAR_ITEMS:,}: in all as many numbers as for these"
    chosen: Candidates = {"linear": (linear, f"{items:,} items, {size}")}
    if any(isinstance(spec, TimeFeature) for spec in query.values()):
        chosen["recent_popularity"] = (RECENT_POPULARITY, "queries have times")
    if data.histories is None or data.histories.steps is None:
        chosen["history"] = ("attention", "one event follows another")
    else:
        chosen["history"] = ("sum", "a step is a session, and the items of one have no order")
    kind, why = chosen["history"]
    if "history" in own:
        kind, why = own["history"], "history is set"
    if kind == "attention" and any(isinstance(e, HistoryFeature) and e.times for e in query.values()):
        chosen["ages"] = (True, "histories have times")
    if kind == "sum":
        chosen |= {name: (value, why) for name, value in SUM.items()}
    if kind == "sum" and items <= MAX_LINEAR_ITEMS:
        chosen["latent"] = (min(LATENT, items), f"{items:,} items, at most {MAX_LINEAR_ITEMS:,}")
        chosen["decay"] = (SUM_DECAY, why)
    return {name: each for name, each in chosen.items() if name not in own}


def _loss_of_histories(data: TrainingData) -> tuple[LossConfig, str]:
    """The softmax over all items, or over a sample where they are many; and why."""
    items = data.item_count
    if items <= MAX_SOFTMAX_ITEMS:
        return FullSoftmax("full_softmax"), f"{items:,} items, at most {MAX_SOFTMAX_ITEMS:,}"
    own = f"a step scores its own and {UNIFORM_NEGATIVES:,} others"
    return SAMPLED, f"{items:,} items, more than {MAX_SOFTMAX_ITEMS:,}: {own}"


def _buckets(
    tower: BagTower | TransformerTower, data: TrainingData, item: Mapping[str, FeatureSpec]
) -> tuple[int, str]:
    """Rows of the hashed table: a power of two from the number of distinct n-grams and words of the items."""
    smallest, largest = BUCKETS
    largest = MOST_BUCKETS if isinstance(tower, TransformerTower) else largest
    if data.item_count > SAMPLE:
        return largest, f"more than {SAMPLE:,} items"
    hashing = WordHashing(tower.orders, tower.words, PROBE, tower.characters)
    found = np.zeros(PROBE, bool)
    for name, spec in _texts(item).items():
        found[hash_texts(data.items[name], spec.longest, hashing).rows] = True
    distinct = int(found.sum())
    rows = 2 ** (distinct - 1).bit_length() if distinct else smallest
    return min(largest, max(smallest, rows)), f"{distinct:,} distinct n-grams and words in the items"


def _training(experiment: Experiment, data: TrainingData) -> Candidates:
    """In which steps to train."""
    train, of_all = data.parts["train"], learns_from_negatives(experiment.loss)
    pairs = len(train if of_all else train.positive())
    smallest, largest = BATCHES
    batch = int(np.clip(2 ** round(np.log2(max(1, pairs / EPOCH_STEPS))), smallest, largest))
    reason = f"{pairs:,} {'' if of_all else 'positive '}training pairs"
    return {
        "batch_size": (batch, f"{reason}: about {EPOCH_STEPS} steps an epoch, as far as that goes"),
    }


def _shown(value: Any) -> str:
    """A value as it may stand in a TOML file."""
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:_}" if type(value) is int else json.dumps(value)
