"""`[tower]` kinds whose query is a history: `sequence`, `history` and `comirec`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any, ClassVar, Literal

from twinspire.protos.bundle import MAX_INTERESTS
from twinspire.protos.features import (
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    TimeFeature,
)
from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.config.checks import above_zero, at_least, below_one, refuse_unused
from twinspire.train.config.losses import FullSoftmax, LossConfig
from twinspire.train.config.tower_section import TextHashing, TowerSection

ATTENTION_KEYS = ("layers", "heads", "dropout", "input_dropout", "ages")  # no effect without it
LATENT_KEYS = ("regularisation", "latent_scale")


@dataclass(frozen=True)
class SequenceTower(TextHashing):
    """The user's history as the query; the default for recommendation.

    A vector has `latent` coordinates of EASE (Steck 2019), then `dimension` learned coordinates. EASE's
    item-item matrix, cut by a singular value decomposition, is itself a linear two-tower model: the query
    vector is the sum of the left factors of the history's items, the item vector is the item's right
    factors. The learned coordinates add to that score.

    Args:
        history: `attention` is causal self-attention (SASRec, Kang and McAuley 2018); `sum` a weighted sum
            over a separate embedding table that starts at zero.
        dimension: learned coordinates, and the width of the item embeddings.
        layers: number of attention layers.
        heads: number of attention heads; must divide `dimension`.
        dropout: dropout inside the attention layers.
        input_dropout: dropout on the embedded history, before the attention.
        ages: the attention reads the times of a history's events and of the query
            (`train/models/sequence_encoders.py`). The history needs `times = true`, the query a feature of
            kind `time`.
        age_dropout: share of the windows of histories in a training step whose times are hidden, so that the
            tower learns to answer clients that send none.
        query_dropout: dropout on the query's learned coordinates.
        history_dropout: largest share of a history's items that is dropped in a training step.
        latent: coordinates that start as EASE; 0 for none.
        regularisation: lambda of EASE.
        latent_scale: factor on EASE's scores at the start, which turns them into logits.
        decay: start value; the log weight of an item in a sum falls by this with each later item.
        recent_popularity: coordinates of how popular an item was before the query's time, added after
            training as those of `linear` (`train/training/blending.py`); 0 for none. The query
            needs a feature of kind `time`.
        linear: coordinates of EASE, SLIST or item-kNN that are added after training, with a weight against
            all other coordinates that is chosen on validation (`train/training/blending.py`); 0 for none.
        newcomers_alpha: items that are not in the training data get a vector by a regression of the learned
            vectors on the items' content, after training. In it an item's weight is its interactions to this
            power; higher values give new items a higher popularity.
        newcomers_strength: lambda of that ridge regression.
        item_hidden: width of the item tower's residual layer; 0 leaves it out.
    """

    kind: Literal["sequence"]
    history: Literal["attention", "sum"] = "attention"
    dimension: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    input_dropout: float = 0.5
    ages: bool = False
    age_dropout: float = 0.1
    query_dropout: float = 0.0
    history_dropout: float = 0.0
    latent: int = 0
    regularisation: float = 300.0
    latent_scale: float = 12.0
    decay: float = 0.0
    recent_popularity: int = 0
    linear: int = 0
    newcomers_alpha: float = 1.0
    newcomers_strength: float = 10.0
    item_hidden: int = 0

    usual_loss: ClassVar[LossConfig] = FullSoftmax("full_softmax")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "dimension", "layers", "heads")
        at_least(0, self, "latent", "recent_popularity", "linear", "item_hidden", "decay")
        above_zero(self, "regularisation", "latent_scale", "newcomers_strength")
        at_least(0, self, "newcomers_alpha")
        conditions = {
            'history = "attention"': (self.history == "attention", ATTENTION_KEYS),
            "ages = true": (self.ages, ("age_dropout",)),
            "latent above 0": (self.latent > 0, LATENT_KEYS),
            'history = "sum" or latent above 0': (self.latent > 0 or self.history == "sum", ("decay",)),
        }
        refuse_unused(self, conditions)
        if self.history == "attention" and self.dimension % self.heads:
            raise ValueError(f"heads: expected a divisor of dimension = {self.dimension}, got {self.heads}")
        below_one(self, "dropout", "input_dropout", "age_dropout", "query_dropout", "history_dropout")

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Check that there are a history, an id and a time where a key needs them; else a ValueError.

        EASE and SLIST score an item's id for the items of a history.
        """
        super().check_features(query, item)
        has_history = any(isinstance(spec, HistoryFeature) for spec in query.values())
        has_id = any(isinstance(spec, IdFeature) for spec in item.values())
        has_time = any(isinstance(spec, TimeFeature) for spec in query.values())
        for name in ("latent", "linear"):
            if getattr(self, name) and not (has_history and has_id):
                raise ValueError(f"tower.{name}: expected 0 without a history and an id")
        if self.ages and not any(isinstance(spec, HistoryFeature) and spec.times for spec in query.values()):
            raise ValueError("tower.ages: expected false without a history with times = true")
        if self.recent_popularity and not (has_time and has_id):
            raise ValueError(
                'tower.recent_popularity: expected 0 without a query feature of kind "time" and an item '
                'feature of kind "id"'
            )

    @property
    def reads_time(self) -> bool:
        """With coordinates of recent popularity, or the ages of events."""
        return self.recent_popularity > 0 or self.ages

    @property
    def reads_ages(self) -> bool:
        """With `ages = true`."""
        return self.ages


_OpenKeys: Any = make_dataclass(
    "_OpenKeys",
    [
        ("kind", Literal["history"]),
        *((each.name, each.type, FROM_DATA) for each in fields(SequenceTower) if each.name != "kind"),
    ],
    frozen=True,
    namespace={"__doc__": SequenceTower.__doc__},
)


@dataclass(frozen=True)
class HistoryTower(_OpenKeys, TowerSection):  # type: ignore[misc]
    """The user's history as the query, with nothing to tune: the `sequence` tower that suits the data.

    It has the keys of `sequence`. Those that are not set follow from the data: before training
    `train/models/defaults.py` puts a `SequenceTower` in its place.
    """

    usual_loss: ClassVar[LossConfig] = FROM_DATA

    def __post_init__(self) -> None:
        self.sequence()  # which checks the keys

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that are set."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "kind"}
        return {name: value for name, value in own.items() if value is not FROM_DATA}

    @property
    def reads_time(self) -> bool:
        """Unless the keys leave out recent popularity and ages: a query with a time gets the former."""
        has_ages = self.keys.get("ages", True) and self.keys.get("history", "attention") == "attention"
        return bool(has_ages) or self.keys.get("recent_popularity") != 0

    @property
    def reads_ages(self) -> bool:
        """Always; where the tower reads none, `train/models/defaults.py` sets `times` to false."""
        return True

    def sequence(self, **chosen: Any) -> SequenceTower:
        """The `sequence` tower with these values for keys that are not set."""
        return SequenceTower("sequence", **{**chosen, **self.keys})

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Check that there are a history and an id, and no negative history; else a ValueError."""
        for side, features, needed in (("query", query, "history"), ("item", item, "id")):
            if not any(spec.kind == needed for spec in features.values()):
                raise ValueError(f'{side}: tower.kind = "history" needs a feature of kind "{needed}"')
        self.sequence().check_features(query, item)


@dataclass(frozen=True)
class ComirecTower(TextHashing):
    """Several interests of a user, each a vector of its own: ComiRec-SA (Cen et al. 2020, section 3.2.2).

    K attention heads over the embeddings of the history's items give K vectors. The score of an item is that
    of the vector which is nearest to it: a search looks for the neighbours of each vector, and merges what it
    finds. In a step of training the vector with the largest inner product with a pair's item stands for the
    query, for the item and for all negatives (equations 6 and 7). Unlike in the paper an item is weighed by
    how many items follow it, not by its position from the start.

    Args:
        interests: K, the number of vectors of a query; 4 in the paper.
        dimension: size of the item embeddings, and of each vector.
        hidden: width of the attention's tanh layer; four times the dimension in the paper.
        input_dropout: dropout on the embedded history.
        newcomers_alpha, newcomers_strength: as of `sequence`.
        item_hidden: width of the item tower's residual layer; 0 leaves it out.
    """

    kind: Literal["comirec"]
    interests: int = 4
    dimension: int = 64
    hidden: int = 256
    input_dropout: float = 0.2
    newcomers_alpha: float = 1.0
    newcomers_strength: float = 10.0
    item_hidden: int = 0

    usual_loss: ClassVar[LossConfig] = FullSoftmax("full_softmax")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "interests")
        if self.interests > MAX_INTERESTS:
            raise ValueError(f"interests: expected at most {MAX_INTERESTS}, got {self.interests}")
        at_least(1, self, "dimension", "hidden")
        at_least(0, self, "item_hidden", "newcomers_alpha")
        above_zero(self, "newcomers_strength")
        below_one(self, "input_dropout")

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """The query is a history and nothing else, and the items have ids.

        Raises:
            ValueError: they have not; the text names the key.
        """
        super().check_features(query, item)
        for name, spec in query.items():
            if not isinstance(spec, HistoryFeature):
                raise ValueError(
                    f'query.{name}: a query of [tower] kind "comirec" is a history alone, got a feature of '
                    f'kind "{spec.kind}"'
                )
        if not any(isinstance(spec, IdFeature) for spec in item.values()):
            raise ValueError('item: [tower] kind "comirec" needs a feature of kind "id"')
