"""`[tower] kind = "transformer"`: a pretrained text encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from twinspire.protos.features import (
    BOTH,
    CODE_POINTS,
    SIDES,
    TOKENS,
    FeatureSpec,
    Side,
    TextFeature,
)
from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.config.checks import at_least, refuse_unused
from twinspire.train.config.losses import InBatchSoftmax, LossConfig
from twinspire.train.config.tower_section import TextHashing

EncodingPrecision = Literal["float32", "bfloat16"]
MOST_BUCKETS = 131_072  # rows of the hashed table, chosen from the data


@dataclass(frozen=True)
class TransformerTower(TextHashing):
    """A pretrained text encoder (BERT and its kin), frozen, on both sides, on one, or as the teacher of both.

    `query` and `item` say what each side is made of: `pretrained` is the encoder; `hashed` is a bag of hashed
    words and n-grams, which is far faster and first learns the encoder's vectors of the training texts. With
    both `hashed`, the bundle holds no trace of the encoder. Vectors have the encoder's dimension.

    Args:
        model: folder in Hugging Face layout, relative to the TOML file: config.json, model.safetensors,
            tokenizer.json; pooling and norm as sentence-transformers' modules.json says.
        query: what encodes the texts of queries.
        item: what encodes the texts of items.
        words_beside: a pretrained side also reads hashed words and n-grams, by a table that both sides
            share: its vector is that of the encoder plus that of the words. What an encoder does not know,
            such as names and rare words, is matched as in `bag`. Where it is not set, they do if the other
            side is hashed.
        encoding: precision of the encoder's matrix products where texts are encoded, before training.
            `bfloat16` is twice as fast on a CPU that computes with it.
        query_hidden: width of the query tower's residual layer; 0 leaves it out, which is the default of a
            hashed query side: there the layer takes much of a query's time.
        item_hidden: width of the item tower's residual layer; 0 leaves it out.
        align_epochs: epochs over the training texts in which a hashed side learns the encoder's vectors,
            before the training of the pairs. Hashed queries beside a pretrained item side learn those of the
            items' texts, too.
    """

    kind: Literal["transformer"]
    model: str
    query: Literal["pretrained", "hashed"] = "pretrained"
    item: Literal["pretrained", "hashed"] = "pretrained"
    words_beside: bool = FROM_DATA
    encoding: EncodingPrecision = "float32"
    query_hidden: int = FROM_DATA
    item_hidden: int = 1024
    align_epochs: int = 4
    buckets: int = field(default=FROM_DATA, kw_only=True)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model: expected the folder of a pretrained model, got an empty text")
        if self.query_hidden is FROM_DATA:
            object.__setattr__(self, "query_hidden", 0 if self.query == "hashed" else 256)
        at_least(0, self, "query_hidden", "item_hidden", "align_epochs")
        is_student = "hashed" in (self.query, self.item)
        if self.words_beside and not self.sides:
            raise ValueError('words_beside: goes with query or item = "pretrained"; leave it out')
        if self.words_beside is FROM_DATA:
            object.__setattr__(self, "words_beside", is_student and self.sides != ())
        is_hashed = self.is_hashed
        conditions = {
            'query or item = "hashed"': (is_student, ("align_epochs",)),
            'query or item = "hashed", or words_beside': (is_hashed, ("orders", "words")),
        }
        refuse_unused(self, conditions)
        if not is_hashed and self.buckets not in (FROM_DATA, MOST_BUCKETS):
            raise ValueError(
                'buckets: goes with query or item = "hashed", or words_beside; leave it out, it would change '
                "nothing"
            )
        if not is_hashed and not (self.query_hidden or self.item_hidden):
            raise ValueError("query_hidden: expected at least 1 on one side: nothing else would learn")
        if not is_hashed:  # nothing is hashed, so nothing is chosen from the data
            for name, value in (("characters", ()), ("buckets", MOST_BUCKETS)):
                if getattr(self, name) is FROM_DATA:
                    object.__setattr__(self, name, value)
        super().__post_init__()

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
        """Softmax with mined negatives and random ones."""
        random = 512 if self.words_beside else 4096
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
                read = BOTH if self.words_beside else TOKENS
                if spec.input not in (CODE_POINTS, read):
                    raise ValueError(f'{side}.{name}.input: expected "{read}", which needs no key')
                changed[name] = replace(spec, input=read)
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
