"""How a raw record becomes the input arrays of a tower.

Export and serving call this module for whole records. Training calls it for categories, numbers, ids and
times; `train/models/prepared_inputs.py` prepares texts and histories, once, with the same functions below.

A feature spec says which column feeds a tower and how. `TowerInputs.to_arrays` turns columns of raw values
into the arrays that a tower (torch or ONNX) takes, batch first. Each is named as its feature:

| kind     | raw value             | array                                                           |
|----------|-----------------------|-----------------------------------------------------------------|
| text     | str                   | int32 (B, L): code points after NFKC and casefold, 0 is padding |
|          | ... input = "tokens"  | int32 (B, L): token ids plus 1 (`tokenizer.py`), 0 is padding   |
|          | ... input = "both"    | these two arrays: token ids, and code points for hashed words   |
| category | str, or list of str   | int64 (B, C): rows of the vocabulary, 0 is padding, 1 unknown   |
| number   | float, None if absent | float32 (B, 1): the value, NaN where absent                     |
| id       | str                   | int64 (B, 1): row of the known items, 1 unknown                 |
| history  | list of str           | int64 (B, L): rows of known items, newest last, padded in front |
|          | ... times = true      | this array, and the times of the events (`inputs/events.py`)    |
| time     | float, None for now   | int64 (B, 1): seconds since 1970, `LATEST` for now              |

A `negative_history` is a history of items that were shown and not clicked, or rated low.

Everything after that (word hashing, embedding, scaling) happens inside the tower's graph.

A kind of feature is a class with the methods of `Feature`. To add one, write the class and add it to
`FeatureSpec`.
"""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import add
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from twinspire.protos.errors import InvalidInput
from twinspire.protos.files.tokenizer import SHORTEST, TOKENIZER, open_tokenizer
from twinspire.protos.inputs.events import (
    TIMES,
    dated_history_rows,
    history_rows,
    history_times,
    is_list_of_strings,
    query_times,
)
from twinspire.protos.inputs.texts import check_strings, code_point_rows, folded
from twinspire.protos.toml_config import FROM_DATA, OPTIONAL

Side = Literal["query", "item"]
SIDES: tuple[Side, Side] = ("query", "item")
Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Converter = Callable[[Sequence[Any], str], Array]  # raw values and the name of their field -> (B, ...)

PADDING = 0
UNKNOWN = 1
FIRST_KNOWN = 2
ITEM_VOCABULARY = "items"
TextInput = Literal["code_points", "tokens", "both"]
CODE_POINTS: TextInput = "code_points"
TOKENS: TextInput = "tokens"  # of pretrained towers
BOTH: TextInput = "both"  # of pretrained towers with hashed words beside the encoder
BESIDE = "__code_points"  # after a feature's name: the name of the second array of `BOTH`
CHARACTERS_OF_TOKEN = 16  # code points of a text that are tokenized, for each token that a tower reads
LARGEST = float(np.finfo(np.float32).max)
USUAL_HISTORY = 100  # items of a history that a tower reads, unless the data or the TOML say otherwise
LONGEST_TEXT = 65_536  # code points of a text that a tower reads, whatever `max_length` says
WORKING_DIRECTORY = Path()


class Feature:
    """Base class of the kinds of features; each is a frozen dataclass with `kind` and `column`.

    Attributes:
        dtype: of the array.
        variable_length: whether the array's second dimension differs from batch to batch.
    """

    dtype: ClassVar[type[np.generic]]
    variable_length: ClassVar[bool] = True

    def vocabulary_key(self, side: Side, name: str) -> str | None:
        """The key of the feature's vocabulary in `Schema.vocabularies`, None if it has no vocabulary."""
        return None

    def files(self) -> tuple[str, ...]:
        """Relative paths of the files that `converters` reads; run and bundle keep a copy of each."""
        return ()

    def arrays(self, name: str) -> dict[str, type[np.generic]]:
        """The arrays of the feature `name`: name -> dtype; usually one, named as the feature."""
        return {name: self.dtype}

    def converters(self, name: str, known: Mapping[str, int], folder: Path) -> dict[str, Converter]:
        """The function that turns raw values into each of the arrays.

        It raises `InvalidInput` with the field's name for a value that does not fit.

        Args:
            known: the vocabulary: value -> row; empty if there is none.
            folder: where the paths of `files` begin.
        """
        raise NotImplementedError

    def lengths(self, values: Sequence[Any]) -> list[int] | None:
        """How long each record's value is for the tower; None if all have the same length.

        Of a text, before normalisation; of a history, unknown items are counted.
        """
        longest: int | None = getattr(self, "longest", None)
        return None if longest is None else [min(_length(value), longest) for value in values]


@dataclass(frozen=True)
class TextFeature(Feature):
    """Free text.

    Args:
        column: the column that is read in training and evaluation.
        max_length: code points kept, counted after normalisation; the rest is cut off. Where it is not set,
            training chooses it from the lengths of the texts. Of the inputs `tokens` and `both` it counts
            tokens, special ones included, and the model says how many it reads.
        catalogue_column: the column that the served catalogue is encoded from, where it differs: an
            item's text must not hold its own query while quality is measured, but may when served.
        input: what the array holds; of `both` there are two.
    """

    kind: Literal["text"]
    column: str
    max_length: int = field(default=FROM_DATA, metadata=OPTIONAL)
    catalogue_column: str = ""
    input: TextInput = field(default=CODE_POINTS, metadata=OPTIONAL)
    dtype: ClassVar[type[np.generic]] = np.int32

    def __post_init__(self) -> None:
        if self.max_length is not FROM_DATA and not 1 <= self.max_length <= LONGEST_TEXT:
            raise ValueError(f"max_length: expected 1 to {LONGEST_TEXT}, got {self.max_length}")
        if self.reads_tokens and self.max_length is not FROM_DATA and self.max_length < SHORTEST:
            raise ValueError(f"max_length: expected at least {SHORTEST} tokens, got {self.max_length}")

    @property
    def serves_other_text(self) -> bool:
        """Whether the served catalogue is encoded from another column than the evaluated one."""
        return self.catalogue_column not in ("", self.column)

    def as_served(self) -> "TextFeature":
        """The same feature with the column of the served catalogue alone."""
        return replace(self, column=self.catalogue_column or self.column, catalogue_column="")

    @property
    def reads_tokens(self) -> bool:
        """Whether a pretrained encoder reads the text, so that `max_length` counts tokens."""
        return self.input in (TOKENS, BOTH)

    @property
    def longest(self) -> int:
        """Code points that a tower may read, or the most that any tower reads where it is not chosen yet."""
        if self.max_length is FROM_DATA:
            return LONGEST_TEXT
        if self.reads_tokens:
            return min(LONGEST_TEXT, CHARACTERS_OF_TOKEN * self.max_length)
        return self.max_length

    def files(self) -> tuple[str, ...]:
        """The tokenizer, where the tower reads tokens. No path comes from a manifest."""
        return (TOKENIZER,) if self.reads_tokens else ()

    def arrays(self, name: str) -> dict[str, type[np.generic]]:
        """One array, or that of the tokens and that of the code points."""
        return {name: self.dtype, **({name + BESIDE: self.dtype} if self.input == BOTH else {})}

    def converters(self, name: str, known: Mapping[str, int], folder: Path) -> dict[str, Converter]:
        """Texts -> int32 (B, L).

        Raises:
            PackageMissing, BundleDamaged: the tokenizer cannot be opened.
        """
        beside = {name + BESIDE: _code_points(self)} if self.input == BOTH else {}
        return {name: _tokens(self, folder) if self.reads_tokens else _code_points(self), **beside}


@dataclass(frozen=True)
class CategoryFeature(Feature):
    """One of a set of strings, or several.

    Args:
        column: the column that is read in training and evaluation.
        multi: a record holds a list of categories, not one.
        min_count: categories seen less often in training data are treated as unknown.
    """

    kind: Literal["category"]
    column: str
    multi: bool = False
    min_count: int = 2
    dtype: ClassVar[type[np.generic]] = np.int64

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count: expected at least 1, got {self.min_count}")

    def vocabulary_key(self, side: Side, name: str) -> str:
        """A vocabulary of its own."""
        return f"{side}.{name}"

    def converters(self, name: str, known: Mapping[str, int], folder: Path) -> dict[str, Converter]:
        """Rows of the vocabulary."""
        return {name: lambda values, field_name: _categories(values, self, known, field_name)}


@dataclass(frozen=True)
class NumberFeature(Feature):
    """A real number; absent values are allowed, and a tower learns what they mean.

    Args:
        column: the column that is read in training and evaluation.
    """

    kind: Literal["number"]
    column: str
    dtype: ClassVar[type[np.generic]] = np.float32
    variable_length: ClassVar[bool] = False

    def converters(self, name: str, known: Mapping[str, int], folder: Path) -> dict[str, Converter]:
        """The values, NaN where absent."""
        return {name: _numbers}


@dataclass(frozen=True)
class IdFeature(Feature):
    """The item's id, for what its other features do not express.

    Args:
        min_count: ids seen less often in training data are treated as unknown.
    """

    kind: Literal["id"]
    min_count: int = 1
    column: ClassVar[str] = "item_id"
    dtype: ClassVar[type[np.generic]] = np.int64
    variable_length: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count: expected at least 1, got {self.min_count}")

    def vocabulary_key(self, side: Side, name: str) -> str:
        """The known items."""
        return ITEM_VOCABULARY

    def converters(self, name: str, known: Mapping[str, int], folder: Path) -> dict[str, Converter]:
        """Rows of the known items."""
        return {name: lambda values, field_name: _ids(values, known, field_name)}


@dataclass(frozen=True)
class HistoryFeature(Feature):
    """The items that a user has interacted with, oldest first. Items unknown to training are skipped.

    Args:
        kind: `history` are the items of positive events, `negative_history` those of negative ones: shown and
            not clicked, or rated low. A query gives its negative history under `features`; its field
            `history` always holds the positive one.
        max_length: known items kept; older ones are cut off. Where a query has both kinds, training reads its
            newest events, as many as the larger `max_length` says, and divides them into the two.
        times: a tower reads when each event was, too; the query needs a feature of kind `time`.
    """

    kind: Literal["history", "negative_history"]
    max_length: int = field(default=FROM_DATA, metadata=OPTIONAL)
    times: bool = field(default=False, metadata=OPTIONAL)
    dtype: ClassVar[type[np.generic]] = np.int64

    def __post_init__(self) -> None:
        if self.max_length is not FROM_DATA and not 1 <= self.max_length <= 4096:
            raise ValueError(f"max_length: expected 1 to 4096, got {self.max_length}")
        if self.times and self.kind != "history":
            raise ValueError('times: goes with kind = "history", not with "negative_history"')

    @property
    def longest(self) -> int:
        """`max_length`, or the usual one where it is not chosen yet."""
        return USUAL_HISTORY if self.max_length is FROM_DATA else self.max_length

    def vocabulary_key(self, side: Side, name: str) -> str:
        """The known items."""
        return ITEM_VOCABULARY

    def arrays(self, name: str) -> dict[str, type[np.generic]]:
        """One array, or that of the rows and that of the times."""
        return {name: self.dtype, **({name + TIMES: np.int64} if self.times else {})}

    def converters(self, name: str, known: Mapping[str, int], folder: Path) -> dict[str, Converter]:
        """Rows of the known items, and the times of their events."""

        def made(convert: Callable[..., Array]) -> Converter:
            return lambda values, field_name: convert(values, self.longest, known, field_name)

        if not self.times:
            return {name: made(history_rows)}
        return {name: made(dated_history_rows), name + TIMES: made(history_times)}


@dataclass(frozen=True)
class TimeFeature(Feature):
    """The time at which a query is asked, in seconds since 1970; a query without a value is asked now.

    In training and evaluation that is the time of the query's earliest event. `now` is after all events of
    training, however late these are: a bundle knows nothing of what came later.
    """

    kind: Literal["time"]
    column: ClassVar[str] = "time"
    dtype: ClassVar[type[np.generic]] = np.int64
    variable_length: ClassVar[bool] = False

    def converters(self, name: str, known: Mapping[str, int], folder: Path) -> dict[str, Converter]:
        """Whole seconds, `LATEST` where absent."""
        return {name: query_times}


FeatureSpec = TextFeature | CategoryFeature | NumberFeature | IdFeature | HistoryFeature | TimeFeature


@dataclass(frozen=True)
class Schema:
    """The features of both towers by name, and the vocabularies that some of them need.

    Args:
        vocabularies: `"query.<feature>"` or `"item.<feature>"` -> known categories, and `"items"` ->
            known item ids, which ids and histories share; the first is row 2.
    """

    query: dict[str, FeatureSpec]
    item: dict[str, FeatureSpec]
    vocabularies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    folder: ClassVar[Path] = WORKING_DIRECTORY  # of the features' files; `in_folder` sets another

    def __post_init__(self) -> None:
        for side in ("query", "item"):
            if not getattr(self, side):
                raise ValueError(f"{side}: expected at least one feature")
            arrays = [each for name, spec in getattr(self, side).items() for each in spec.arrays(name)]
            for name in arrays:
                if arrays.count(name) > 1:
                    raise ValueError(f"{side}.{name}: another feature has an array of this name; rename it")

    def side(self, side: Side) -> "TowerInputs":
        """The inputs of one tower."""
        return TowerInputs(side, getattr(self, side), self.vocabularies, self.folder)

    def files(self) -> tuple[str, ...]:
        """Relative paths of the files that the features read, sorted."""
        specs = [*self.query.values(), *self.item.values()]
        return tuple(sorted({name for spec in specs for name in spec.files()}))

    @property
    def reads_characters(self) -> bool:
        """Whether a tower reads a text as code points, which the running Python normalises."""
        specs = [*self.query.values(), *self.item.values()]
        return any(isinstance(spec, TextFeature) and spec.input != TOKENS for spec in specs)

    def in_folder(self, folder: Path) -> "Schema":
        """The same schema, whose features read their files from `folder`: that of a run or a bundle."""
        placed = copy.copy(self)
        object.__setattr__(placed, "folder", folder)  # no field: it is not written into a manifest
        return placed

    def copy_files(self, folder: Path) -> None:
        """Copy the features' files into the folder of a run or a bundle, at the same relative paths."""
        for name in self.files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, folder / name)


class TowerInputs:
    """Turns raw values into one tower's input arrays; `files` are the paths that the features read.

    Args:
        features: feature name -> spec.
        vocabularies: as of `Schema`.
        folder: where the paths of the features' files begin.
    """

    def __init__(
        self,
        side: Side,
        features: Mapping[str, FeatureSpec],
        vocabularies: Mapping[str, Sequence[str]],
        folder: Path = WORKING_DIRECTORY,
    ) -> None:
        self.side = side
        self.features = dict(features)
        self.files = [folder / name for spec in features.values() for name in spec.files()]
        keys = {name: spec.vocabulary_key(side, name) for name, spec in features.items()}
        tables = {
            key: {value: FIRST_KNOWN + n for n, value in enumerate(vocabularies[key])}
            for key in set(keys.values())
            if key is not None
        }
        self._rows = {name: tables[key] for name, key in keys.items() if key is not None}
        self._converters = [
            (name, array, convert, f"{side}.{name}")
            for name, spec in features.items()
            for array, convert in spec.converters(name, self._rows.get(name, {}), folder).items()
        ]

    def to_arrays(self, values: Mapping[str, Sequence[Any]]) -> Arrays:
        """Feature name -> raw values of a batch, as name of an array -> input array.

        Raises:
            InvalidInput: a value does not fit its feature; the field is `<side>.<feature>`.
        """
        return {
            array: convert(values[name], field_name) for name, array, convert, field_name in self._converters
        }

    def lengths(self, values: Mapping[str, Sequence[Any]], count: int) -> list[int]:
        """The total length of each record's texts and histories, as the tower reads them.

        Args:
            values: feature name -> raw values of a batch, as `to_arrays` takes them; one that does not fit
                its feature counts as empty.
        """
        lengths = [0] * count
        for name, spec in self.features.items():
            more = spec.lengths(values[name])
            if more is not None:
                lengths = [*map(add, lengths, more)]
        return lengths

    def known(self, name: str) -> list[str]:
        """The vocabulary of the feature `name`, most frequent values first."""
        return list(self._rows[name])

    def rows(self, name: str) -> Mapping[str, int]:
        """The rows of the values in the vocabulary of the feature `name`."""
        return self._rows[name]

    def unknown(self, name: str, ids: Sequence[str]) -> int:
        """The number of ids in a history that the feature `name` skips."""
        rows = self._rows[name]
        return sum(each not in rows for each in ids)


def _code_points(spec: TextFeature) -> Converter:
    """Texts as their code points after normalisation; the tower's graph hashes them."""
    length = spec.longest
    return lambda texts, field_name: code_point_rows(folded(texts, length, field_name))


def _tokens(spec: TextFeature, folder: Path) -> Converter:
    """Texts as token ids of a pretrained tokenizer, which the file `tokenizer.json` holds."""
    most = LONGEST_TEXT if spec.max_length is FROM_DATA else spec.max_length
    tokens, longest = open_tokenizer(folder / TOKENIZER, most), spec.longest

    def convert(texts: Sequence[Any], field_name: str) -> Array:
        check_strings(texts, field_name)
        return _padded([tokens(text[:longest]) for text in texts], np.int32)

    return convert


def _padded(rows: Sequence[Sequence[int]], dtype: type[np.generic]) -> Array:
    """Numbers of each record, padded with 0 behind to the longest: (B, L), L at least 1."""
    width = max(1, max(map(len, rows), default=1))
    padded = np.full((len(rows), width), PADDING, dtype)
    for n, row in enumerate(rows):
        padded[n, : len(row)] = row
    return padded


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _categories(
    values: Sequence[Any], spec: CategoryFeature, rows: Mapping[str, int], field_name: str
) -> Array:
    lists = values if spec.multi else [[] if value is None else [value] for value in values]
    encoded = []
    for each in lists:
        if not is_list_of_strings(each):
            expected = "a list of strings" if spec.multi else "a string"
            raise InvalidInput(field_name, f"expected {expected}, got {each!r}")
        encoded.append([rows.get(value, UNKNOWN) for value in each or ()])
    return _padded(encoded, np.int64)


def _ids(values: Sequence[Any], rows: Mapping[str, int], field_name: str) -> npt.NDArray[np.int64]:
    for value in values:
        if value is not None and not isinstance(value, str):
            raise InvalidInput(field_name, f"expected an item id, got {value!r}")
    return np.array([[rows.get(value, UNKNOWN)] for value in values], np.int64).reshape(-1, 1)


def _numbers(values: Sequence[Any], field_name: str) -> npt.NDArray[np.float32]:
    for value in values:
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(field_name, f"expected a number, got {value!r}")
        if abs(value) > LARGEST:
            raise InvalidInput(field_name, f"expected a number that fits float32, got {value!r}")
    numbers = np.array([np.nan if value is None else value for value in values], np.float32)
    return numbers[:, None]
