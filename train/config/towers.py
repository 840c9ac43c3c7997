"""`[tower]`: the architecture of the query tower and the item tower, one class for each `kind`.

The towers are built by `train/models/architectures/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from protos.features import (
    BOTH,
    CODE_POINTS,
    SIDES,
    TOKENS,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    Side,
    TextFeature,
)
from protos.toml_config import FROM_DATA
from train.config.checks import above_zero, at_least, refuse_unused
from train.config.losses import Bce, FullSoftmax, InBatchSoftmax, LossConfig, SampledSoftmax

MAX_NGRAM = 16  # characters; for longer n-grams too few hash multipliers are exact in single precision
EncodingPrecision = Literal["float32", "bfloat16"]
MAX_CHARACTERS = 4  # the same for scripts without spaces, whose characters have more numbers


def refuse_tokens(query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
    """Refuse texts that are to be read as token ids, which only a pretrained encoder understands.

    Raises:
        ValueError: there is one.
    """
    for side, features in (("query", query), ("item", item)):
        for name, spec in features.items():
            if isinstance(spec, TextFeature) and spec.reads_tokens:
                raise ValueError(f'{side}.{name}.input: "{spec.input}" goes with [tower] kind "transformer"')


class _TowerSection:
    """Base of all kinds. A key with the default `FROM_DATA` is chosen from the data where it is not set."""

    _for_english: ClassVar[Mapping[str, Any]] = {"characters": ()}
    usual_loss: ClassVar[LossConfig] = InBatchSoftmax("in_batch_softmax")  # where the TOML has no `[loss]`
    predicts_probability: ClassVar[bool] = False  # whether the score of a query and an item is a sigmoid
    reads_order: ClassVar[bool] = False  # whether hashed texts are sequences of words, not bags

    def with_english_defaults(self) -> Self:
        """The section with the values for a large set of English texts where a key is not set.

        Benchmarks without data need no more.
        """
        unset = (each.name for each in fields(self) if getattr(self, each.name) is FROM_DATA)  # type: ignore[arg-type]
        return replace(self, **{name: self._for_english[name] for name in unset})  # type: ignore[type-var]

    def with_inputs(self, side: Side, features: Mapping[str, FeatureSpec]) -> dict[str, FeatureSpec]:
        """The features of a side with the inputs that this kind needs; by default as they are."""
        return dict(features)

    def in_folder(self, folder: Path) -> Self:
        """The section with its paths, which are relative to the folder of the TOML file, made absolute."""
        return self

    @property
    def features_folder(self) -> Path:
        """Where the files of the features are: by default paths begin at the working directory."""
        return Path()

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Check that the towers can be built; by default not for negative histories and token ids.

        Raises:
            ValueError: they cannot; the text names the key of the `[tower]` section.
        """
        if any(spec.kind == "negative_history" for spec in query.values()):
            raise ValueError('tower.kind: expected "clicks" for a negative history')
        refuse_tokens(query, item)


@dataclass(frozen=True)
class BagTower(_TowerSection):
    """Hashed words and character n-grams with learned weights; the default for text.

    The towers start as TF-IDF projected to D dimensions, and their residual layers start at zero. Keys that
    have no default here are chosen from the data where they are not set, see `train/models/defaults.py`.

    Args:
        dimension: D, the size of a vector.
        latent: number of dimensions that start as latent semantic analysis of the items (Deerwester et
            al. 1990); the others start as a random projection of the remainder.
        orders: lengths of the character n-grams, including `#` at word boundaries.
        words: also hash whole words.
        characters: lengths of the n-grams of scripts without spaces, such as Chinese, which are then no part
            of words and of other n-grams; empty treats all scripts alike.
        buckets: rows of the hashed table.
        query_hidden: width of the query tower's residual layer; 0 leaves it out.
        item_hidden: width of the item tower's residual layer; 0 leaves it out. The item tower runs once for
            each item, so it can be wider.
    """

    kind: Literal["bag"]
    dimension: int = FROM_DATA
    latent: int = FROM_DATA
    orders: tuple[int, ...] = (3,)
    words: bool = True
    buckets: int = FROM_DATA
    query_hidden: int = 0
    item_hidden: int = FROM_DATA
    characters: tuple[int, ...] = FROM_DATA

    _for_english: ClassVar[Mapping[str, Any]] = {
        **_TowerSection._for_english,
        "dimension": 512,
        "latent": 128,
        "buckets": 65_536,
        "item_hidden": 1024,
    }

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(2, self, "buckets")
        at_least(0, self, "latent", "query_hidden", "item_hidden")
        given = FROM_DATA not in (self.latent, self.dimension)
        if given and not 0 <= self.latent <= self.dimension:
            raise ValueError(f"latent: expected 0 to dimension = {self.dimension}, got {self.latent}")
        _check_orders(self)


@dataclass(frozen=True)
class DssmTower(_TowerSection):
    """Huang et al. 2013, section 3: letter-trigram counts, two tanh layers and a tanh output layer.

    Args:
        dimension: D, the size of a vector; 128 in the paper.
        orders: lengths of the letter n-grams; 3 in the paper.
        buckets: rows of the hashed table; the paper counts 30,621 distinct trigrams.
        hidden: widths of the layers before the last.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`.
    """

    kind: Literal["dssm"]
    dimension: int = 128
    orders: tuple[int, ...] = (3,)
    buckets: int = 32_768
    hidden: tuple[int, ...] = (300, 300)
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = SampledSoftmax("sampled_softmax")

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(2, self, "buckets")
        _check_orders(self)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"hidden: expected at least one number, each at least 1, got {list(self.hidden)}"
            )


@dataclass(frozen=True)
class CdssmTower(_TowerSection):
    """Shen et al. 2014: a convolution over windows of hashed words, max pooling and a tanh layer.

    Without biases, as in the paper. Beyond the ends of a text stand zeros in a window, where the paper has a
    padding word.

    Args:
        dimension: D, the size of a vector; 128 in the paper.
        window: words of a window, an odd number; 3 in the paper.
        hidden: outputs of the convolution; 300 in the paper.
        orders: lengths of the letter n-grams of a word; 3 in the paper.
        buckets: rows of the hashed table; each has `window` times `hidden` weights.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`; each character is then a
            word.
    """

    kind: Literal["cdssm"]
    dimension: int = 128
    window: int = 3
    hidden: int = 300
    orders: tuple[int, ...] = (3,)
    buckets: int = 32_768
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = SampledSoftmax("sampled_softmax")
    reads_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self, "dimension", "window", "hidden")
        at_least(2, self, "buckets")
        if self.window % 2 == 0:
            raise ValueError(f"window: expected an odd number of words, got {self.window}")
        _check_orders(self)


@dataclass(frozen=True)
class LstmTower(_TowerSection):
    """LSTM-DSSM (Palangi et al. 2016): an LSTM over hashed words; its state after the last is the vector.

    Two things differ from the paper: the gates have no peephole connections, and they read the embedding of a
    word, which is the sum of those of its n-grams, instead of the counts of its n-grams.

    Args:
        dimension: D, the size of a vector and of the LSTM's state.
        word_dimension: size of the embedding of a word.
        orders: lengths of the letter n-grams of a word; 3 in the paper.
        buckets: rows of the hashed table.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`; each character is then a
            word.
    """

    kind: Literal["lstm"]
    dimension: int = 128
    word_dimension: int = 128
    orders: tuple[int, ...] = (3,)
    buckets: int = 32_768
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = SampledSoftmax("sampled_softmax")
    reads_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self, "dimension", "word_dimension")
        at_least(2, self, "buckets")
        _check_orders(self)


@dataclass(frozen=True)
class SequenceTower(_TowerSection):
    """The user's history as the query; the default for recommendation.

    A vector has `latent` coordinates of EASE (Steck 2019), then `dimension` learned coordinates. EASE's
    item-item matrix, cut by a singular value decomposition, is itself a linear two-tower model: the query
    vector is the sum of the left factors of the history's items, the item vector is the item's right
    factors. The learned coordinates add to that score.

    Args:
        history: `attention` is causal self-attention (SASRec, Kang and McAuley 2018); `mean` the mean of
            the items' embeddings, weighted by how recent each item is; `sum` a weighted sum over a separate
            embedding table that starts at zero; `latent` uses EASE's coordinates alone.
        dimension: learned coordinates, and the width of the item embeddings.
        layers: number of attention layers.
        heads: number of attention heads; must divide `dimension`.
        dropout: dropout inside the attention layers.
        input_dropout: dropout on the embedded history, before the attention.
        query_dropout: dropout on the query's learned coordinates.
        history_dropout: largest share of a history's items that is dropped in a training step.
        latent: coordinates that start as EASE; 0 for none.
        regularisation: lambda of EASE.
        latent_scale: factor on EASE's scores at the start, which turns them into logits.
        decay: start value; the log weight of an item in a sum falls by this with each later item.
        linear: coordinates of EASE or SLIST that are added after training, with a weight against all other
            coordinates that is chosen on validation (`train/training/mixture.py`); 0 for none.
        id_dropout: share of the items whose id is replaced by "unknown" in a training step, so that the
            content encoders learn to place an item.
        id_dropout_alpha: an item's share is proportional to its interactions to this power. At 0 all items
            have the same share, and unknown items get the popularity of an average item, which is low; at 1
            they get the popularity of the items that users interact with.
        newcomers: how items that are not in the training data get a vector: `fitted` regresses the learned
            vectors on the items' content after training; `learned` relies on `id_dropout`.
        newcomers_alpha: with `fitted`, an item's weight in the regression is its interactions to this
            power; higher values give new items a higher popularity.
        newcomers_strength: with `fitted`, lambda of the ridge regression.
        item_hidden: width of the item tower's residual layer; 0 leaves it out.
        buckets: rows of the hashed table of texts.
        orders: lengths of the character n-grams of texts.
        words: also hash whole words of texts.
        similarity: `inner_product` lets the lengths of item vectors differ, `cosine` does not.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`.
    """

    kind: Literal["sequence"]
    history: Literal["attention", "mean", "sum", "latent"] = "attention"
    dimension: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    input_dropout: float = 0.5
    query_dropout: float = 0.0
    history_dropout: float = 0.0
    latent: int = 0
    regularisation: float = 300.0
    latent_scale: float = 12.0
    decay: float = 0.0
    linear: int = 0
    id_dropout: float = 0.0
    id_dropout_alpha: float = 0.0
    newcomers: Literal["fitted", "learned"] = "fitted"
    newcomers_alpha: float = 1.0
    newcomers_strength: float = 10.0
    item_hidden: int = 0
    buckets: int = 8192
    orders: tuple[int, ...] = (3,)
    words: bool = True
    similarity: Literal["inner_product", "cosine"] = "inner_product"
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = FullSoftmax("full_softmax")

    def __post_init__(self) -> None:
        at_least(1, self, "dimension", "layers", "heads")
        at_least(0, self, "latent", "linear", "item_hidden", "decay", "id_dropout_alpha")
        at_least(2, self, "buckets")
        above_zero(self, "regularisation", "latent_scale", "newcomers_strength")
        at_least(0, self, "newcomers_alpha")
        if self.newcomers == "fitted" and self.id_dropout:
            raise ValueError('newcomers: "fitted" places new items without id_dropout; choose one of them')
        self._refuse_keys_without_effect()
        if self.history == "latent" and not self.latent:
            raise ValueError('latent: expected at least 1 with history = "latent", got 0')
        if self.linear and self.similarity != "inner_product":
            raise ValueError(f'linear: goes with similarity = "inner_product", not with "{self.similarity}"')
        if self.history == "attention" and self.dimension % self.heads:
            raise ValueError(f"heads: expected a divisor of dimension = {self.dimension}, got {self.heads}")
        for name in ("dropout", "input_dropout", "query_dropout", "history_dropout", "id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 to below 1, got {getattr(self, name)}")
        _check_orders(self)

    def _refuse_keys_without_effect(self) -> None:
        """Refuse a key that was set but has no effect without another key."""
        conditions = {
            'history = "attention"': (
                self.history == "attention",
                ("layers", "heads", "dropout", "input_dropout"),
            ),
            "latent above 0": (self.latent > 0, ("regularisation", "latent_scale")),
            "a sum over the history": (self.latent > 0 or self.history in ("mean", "sum"), ("decay",)),
            "id_dropout above 0": (self.id_dropout > 0, ("id_dropout_alpha",)),
            'newcomers = "fitted"': (
                self.newcomers == "fitted",
                ("newcomers_alpha", "newcomers_strength"),
            ),
        }
        refuse_unused(self, conditions)

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """EASE and SLIST score an item's id for the items of a history: without both, a ValueError."""
        super().check_features(query, item)
        has_history = any(isinstance(spec, HistoryFeature) for spec in query.values())
        has_id = any(isinstance(spec, IdFeature) for spec in item.values())
        for name in ("latent", "linear"):
            if getattr(self, name) and not (has_history and has_id):
                raise ValueError(f"tower.{name}: expected 0 without a history and an id")


@dataclass(frozen=True)
class HistoryTower(_TowerSection):
    """The user's history as the query, with nothing to tune: the `sequence` tower that suits the data.

    Before training `train/models/defaults.py` puts a `SequenceTower` in its place. The keys are of its texts.
    """

    kind: Literal["history"]
    buckets: int = 8192
    orders: tuple[int, ...] = (3,)
    words: bool = True
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = FullSoftmax("full_softmax")

    def __post_init__(self) -> None:
        self.sequence()  # which checks the keys

    def sequence(self, **keys: Any) -> SequenceTower:
        """The `sequence` tower with these keys."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "kind"}
        return SequenceTower("sequence", **own, **keys)

    def with_english_defaults(self) -> SequenceTower:  # type: ignore[override]
        """A `sequence` tower with its usual values."""
        return self.sequence().with_english_defaults()

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Check that there are a history and an id, and no negative history; else a ValueError."""
        super().check_features(query, item)
        for side, features, needed in (("query", query, "history"), ("item", item, "id")):
            if not any(spec.kind == needed for spec in features.values()):
                raise ValueError(f'{side}: tower.kind = "history" needs a feature of kind "{needed}"')


@dataclass(frozen=True)
class SharedTower(_TowerSection):
    """One tower for both sides, and a linear layer over the elementwise product of the two vectors.

    The score is sigmoid(w . (q * d) + b). The weights w are folded into the query vector, so the index
    searches by inner product and the service returns the same score.

    Args:
        dimension: D, the size of a vector before the product.
        hidden: widths of the shared layers before the last.
        orders: lengths of the letter n-grams of texts.
        words: also hash whole words of texts.
        buckets: rows of the hashed table of texts.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`.
    """

    kind: Literal["shared"]
    dimension: int = 64
    hidden: tuple[int, ...] = (128,)
    orders: tuple[int, ...] = (3,)
    words: bool = True
    buckets: int = 8192
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = Bce(kind="bce")
    predicts_probability: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(2, self, "buckets")
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden: expected numbers of at least 1, got {list(self.hidden)}")
        _check_orders(self)


@dataclass(frozen=True)
class ClicksTower(_TowerSection):
    """Predicts whether an item is clicked, bought or liked: sigmoid(<u, v> + b_u + b_v + b).

    Each feature has a vector and a bias; u and b_u are their sums over the query's features, v and b_v over
    the item's. So the model is a factorisation machine (Rendle 2010) of which each side is one vector: the
    biases are one more coordinate, [u, b_u, 1] and [v, 1, b_v]. Histories of positive and of negative items
    are pooled together: their sum is divided by the number of items plus a learned constant, so that a short
    history says less (`train/models/clicks.py`).

    Args:
        dimension: coordinates of u and v.
        crosses: add the products of features of the same side to its bias, as a factorisation machine does.
        gate: weigh the features of a side by each other (SENet, Huang et al. 2019, section 3.2).
        hidden: width of a residual layer on each side; 0 leaves it out.
        dropout: dropout on u.
        id_dropout: share of the items whose id is replaced by "unknown" in a training step, so that the
            content encoders learn to place an item.
        orders: lengths of the letter n-grams of texts.
        words: also hash whole words of texts.
        buckets: rows of the hashed table of texts.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`.
    """

    kind: Literal["clicks"]
    dimension: int = 16
    crosses: bool = False
    gate: bool = False
    hidden: int = 0
    dropout: float = 0.2
    id_dropout: float = 0.0
    orders: tuple[int, ...] = (3,)
    words: bool = True
    buckets: int = 8192
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = Bce(kind="bce", negatives=0)
    predicts_probability: ClassVar[bool] = True

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Any features will do, but token ids.

        Raises:
            ValueError: a text is to be read as token ids.
        """
        refuse_tokens(query, item)

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(0, self, "hidden")
        at_least(2, self, "buckets")
        for name in ("dropout", "id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 to below 1, got {getattr(self, name)}")
        _check_orders(self)


@dataclass(frozen=True)
class TransformerTower(_TowerSection):
    """A pretrained text encoder (BERT and its kin) on both sides, on one, or as the teacher of both.

    `query` and `item` say what each side is made of: `pretrained` is the encoder; `hashed` is a bag of hashed
    words and n-grams, which is far faster and first learns the encoder's vectors of the training texts. With
    both `hashed`, the bundle holds no trace of the encoder. Vectors have the encoder's dimension.

    Args:
        model: folder in Hugging Face layout, relative to the TOML file: config.json, model.safetensors,
            tokenizer.json; pooling and norm as sentence-transformers' modules.json says.
        query: what encodes the texts of queries.
        item: what encodes the texts of items.
        words_beside: a pretrained side also reads hashed words and n-grams, by the table of the other side:
            its vector is that of the encoder plus that of the words. What an encoder does not know, such as
            names and rare words, is matched as in `bag`. Where it is not set, they do if the other side is
            hashed.
        trainable: train the encoder's weights too, which encodes every text in each epoch, with gradients. If
            not, texts are encoded once.
        encoding: precision of the encoder's matrix products where texts are encoded once, before training.
            `bfloat16` is twice as fast on a CPU that computes with it.
        query_hidden: width of the query tower's residual layer; 0 leaves it out, which is the default of a
            hashed query side: there the layer takes much of a query's time.
        item_hidden: width of the item tower's residual layer; 0 leaves it out.
        align_epochs: epochs over the training texts in which a hashed side learns the encoder's vectors,
            before the training of the pairs.
        orders: lengths of the character n-grams of a hashed side.
        words: also hash whole words.
        buckets: rows of the hashed table; chosen from the data where it is not set.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`.
    """

    kind: Literal["transformer"]
    model: str
    query: Literal["pretrained", "hashed"] = "pretrained"
    item: Literal["pretrained", "hashed"] = "pretrained"
    words_beside: bool = FROM_DATA
    trainable: bool = False
    encoding: EncodingPrecision = "float32"
    query_hidden: int = FROM_DATA
    item_hidden: int = 1024
    align_epochs: int = 4
    orders: tuple[int, ...] = (3,)
    words: bool = True
    buckets: int = FROM_DATA
    characters: tuple[int, ...] = FROM_DATA

    _for_english: ClassVar[Mapping[str, Any]] = {**_TowerSection._for_english, "buckets": 131_072}

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model: expected the folder of a pretrained model, got an empty text")
        if self.query_hidden is FROM_DATA:
            object.__setattr__(self, "query_hidden", 0 if self.query == "hashed" else 256)
        at_least(0, self, "query_hidden", "item_hidden", "align_epochs")
        at_least(2, self, "buckets")
        is_student = "hashed" in (self.query, self.item)
        if self.words_beside and not self.sides:
            raise ValueError('words_beside: goes with query or item = "pretrained"; leave it out')
        if self.words_beside is FROM_DATA:
            object.__setattr__(self, "words_beside", is_student and self.sides != ())
        is_hashed = self.is_hashed
        conditions = {
            'query or item = "hashed"': (is_student, ("align_epochs",)),
            'query or item = "hashed", or words_beside': (is_hashed, ("orders", "words")),
            'query or item = "pretrained"': (self.sides != (), ("trainable",)),
            "trainable = false": (is_student or not self.trainable, ("encoding",)),
        }
        refuse_unused(self, conditions)
        if not is_hashed and self.buckets not in (FROM_DATA, self._for_english["buckets"]):
            raise ValueError(
                'buckets: goes with query or item = "hashed", or words_beside; leave it out, it would change '
                "nothing"
            )
        if not is_hashed and not self.trainable and not (self.query_hidden or self.item_hidden):
            raise ValueError("query_hidden: expected at least 1 on one side: nothing else would learn")
        if not is_hashed:  # nothing is hashed, so nothing is chosen from the data
            for name, value in self._for_english.items():
                if getattr(self, name) is FROM_DATA:
                    object.__setattr__(self, name, value)
        _check_orders(self)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides whose texts the pretrained encoder encodes."""
        sides: tuple[Side, Side] = ("query", "item")
        return tuple(side for side in sides if getattr(self, side) == "pretrained")

    @property
    def is_hashed(self) -> bool:
        """Whether a side reads hashed words."""
        return self.words_beside or len(self.sides) < len(SIDES)

    @property
    def usual_loss(self) -> LossConfig:  # type: ignore[override]
        """Softmax with mined negatives, and with random ones where encoding them costs little."""
        random = 0 if self.trainable else 512 if self.words_beside else 4096
        return InBatchSoftmax("in_batch_softmax", hard_negatives=1, uniform_negatives=random)

    def with_inputs(self, side: Side, features: Mapping[str, FeatureSpec]) -> dict[str, FeatureSpec]:
        """The pretrained encoder reads token ids.

        Raises:
            ValueError: a text of a hashed side is to be read as token ids.
        """
        changed = dict(features)
        for name, spec in features.items():
            if not isinstance(spec, TextFeature):
                continue
            if side in self.sides:
                changed[name] = replace(spec, input=BOTH if self.words_beside else TOKENS)
            elif spec.input != CODE_POINTS:
                raise ValueError(f'{side}.{name}.input: expected "{CODE_POINTS}" on a hashed side')
        return changed

    def in_folder(self, folder: Path) -> Self:
        """The section with an absolute path of the model."""
        return replace(self, model=str(folder / self.model))

    @property
    def features_folder(self) -> Path:
        """That of the model, where its tokenizer is."""
        return Path(self.model)

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Both sides need a text; a history is not encoded.

        Raises:
            ValueError: a side has no text, or the query has a history.
        """
        for side, features in (("query", query), ("item", item)):
            if not any(isinstance(spec, TextFeature) for spec in features.values()):
                raise ValueError(f'tower.kind: "transformer" needs a feature of kind "text", {side} has none')
        if any(spec.kind in ("history", "negative_history") for spec in query.values()):
            raise ValueError('tower.kind: "transformer" reads no history; "sequence" does')


def _check_orders(section: Any) -> None:
    """Refuse lengths of n-grams that the word hashing does not support, and a section without any."""
    for name, longest in (("orders", MAX_NGRAM), ("characters", MAX_CHARACTERS)):
        lengths = getattr(section, name)
        if lengths is not FROM_DATA and not all(1 <= each <= longest for each in lengths):
            raise ValueError(f"{name}: expected lengths of 1 to {longest}, got {list(lengths)}")
    if section.orders == () and getattr(section, "words", False) is False:
        raise ValueError(f"orders: expected lengths of 1 to {MAX_NGRAM}, got []")


TowerConfig = (
    BagTower
    | DssmTower
    | CdssmTower
    | LstmTower
    | SequenceTower
    | HistoryTower
    | SharedTower
    | ClicksTower
    | TransformerTower
)
