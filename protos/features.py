"""What a raw record becomes before it reaches a tower; training, export and serving all call this.

A feature spec says which column feeds a tower and how. `to_arrays` turns columns of raw values into the
arrays that a tower (torch or ONNX) takes, one per feature, batch first:

| kind     | raw value            | array                                                       |
|----------|----------------------|-------------------------------------------------------------|
| text     | str                  | int32 (B, L): code points after NFKC and casefold, 0 is padding |
| category | str, or list of str  | int64 (B, C): rows of the vocabulary, 0 is padding, 1 unknown   |
| number   | float, None if absent | float32 (B, 1): the value as it is, NaN where absent        |
| id       | str                  | int64 (B, 1): row of the known items, 1 unknown                 |
| history  | list of str          | int64 (B, L): rows of known items, newest last, 0 before them   |

Everything after that (word hashing, embedding, scaling) happens inside the tower's graph.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput

Side = Literal["query", "item"]

PADDING = 0
UNKNOWN = 1
FIRST_KNOWN = 2
ITEM_VOCABULARY = "items"
BYTE_ORDER_MARK = 4  # bytes before UTF-32 in the machine's own order, which Python writes without a look-up
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TextFeature:
    """Free text.

    Args:
        column: the column that is read in training and evaluation.
        max_length: code points kept, counted after normalisation; the rest is cut off.
        catalogue_column: the column that the served catalogue is encoded from, where it differs: an
            item's text must not hold its own query while quality is measured, but may when served.
    """

    kind: Literal["text"]
    column: str
    max_length: int = 256
    catalogue_column: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.max_length <= 65_536:
            raise ValueError(f"max_length: expected 1 to 65536, got {self.max_length}")


@dataclass(frozen=True)
class CategoryFeature:
    """One of a set of strings, or several.

    Args:
        column: the column that is read.
        multi: a record holds a list of categories, not one.
        min_count: categories seen less often in training data are treated as unknown.
    """

    kind: Literal["category"]
    column: str
    multi: bool = False
    min_count: int = 2

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count: expected at least 1, got {self.min_count}")


@dataclass(frozen=True)
class NumberFeature:
    """A real number; absent values are allowed, and a tower learns what they mean."""

    kind: Literal["number"]
    column: str


@dataclass(frozen=True)
class IdFeature:
    """The item's own id, for what cannot be said of it in words.

    Args:
        min_count: ids seen less often in training data are treated as unknown.
    """

    kind: Literal["id"]
    min_count: int = 1
    column: ClassVar[str] = "item_id"

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count: expected at least 1, got {self.min_count}")


@dataclass(frozen=True)
class HistoryFeature:
    """The items that a user has dealt with, oldest first. Items that training has not seen are skipped.

    Args:
        max_length: known items kept; older ones are cut off.
    """

    kind: Literal["history"]
    max_length: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.max_length <= 4096:
            raise ValueError(f"max_length: expected 1 to 4096, got {self.max_length}")


FeatureSpec = TextFeature | CategoryFeature | NumberFeature | IdFeature | HistoryFeature
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Schema:
    """The features of both towers by name, and the vocabularies that some of them need.

    Args:
        query: features of the query tower.
        item: features of the item tower.
        vocabularies: `"query.<feature>"` or `"item.<feature>"` -> known categories, and `"items"` ->
            known item ids, which ids and histories share; the first is row 2.
    """

    query: dict[str, FeatureSpec]
    item: dict[str, FeatureSpec]
    vocabularies: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for side in ("query", "item"):
            if not getattr(self, side):
                raise ValueError(f"{side}: expected at least one feature")

    def side(self, side: Side) -> "TowerInputs":
        """The inputs of one tower."""
        return TowerInputs(side, getattr(self, side), self.vocabularies)


class TowerInputs:
    """Turns raw values into one tower's input arrays."""

    def __init__(
        self,
        side: Side,
        features: Mapping[str, FeatureSpec],
        vocabularies: Mapping[str, Sequence[str]],
    ) -> None:
        self.side = side
        self.features = dict(features)
        self._named = [(name, spec, f"{side}.{name}") for name, spec in features.items()]
        keys = {name: vocabulary_of(side, name, spec) for name, spec in features.items()}
        tables = {
            key: {value: FIRST_KNOWN + n for n, value in enumerate(vocabularies[key])}
            for key in set(keys.values())
            if key is not None
        }
        self._rows = {name: tables[key] for name, key in keys.items() if key is not None}

    def to_arrays(self, values: Mapping[str, Sequence[Any]]) -> Arrays:
        """Feature name -> raw values of a batch, as feature name -> input array.

        Raises:
            InvalidInput: a value does not fit its feature; the field is `<side>.<feature>`.
        """
        arrays: Arrays = {}
        for name, spec, field_name in self._named:
            if isinstance(spec, TextFeature):
                arrays[name] = text_rows(values[name], spec, field_name)
            elif isinstance(spec, CategoryFeature):
                arrays[name] = _categories(values[name], spec, self._rows[name], field_name)
            elif isinstance(spec, IdFeature):
                arrays[name] = _ids(values[name], self._rows[name], field_name)
            elif isinstance(spec, HistoryFeature):
                arrays[name] = _histories(values[name], spec.max_length, self._rows[name], field_name)
            else:
                arrays[name] = _numbers(values[name], field_name)
        return arrays

    def lengths(self, values: Mapping[str, Sequence[Any]], count: int) -> list[int]:
        """How long the texts and histories of each record are together, as a tower reads them.

        Args:
            values: feature name -> raw values of a batch, as `to_arrays` takes them; one that is none of its
                feature counts as nothing.
            count: records in the batch.
        """
        lengths = [0] * count
        for name, spec in self.features.items():
            if isinstance(spec, TextFeature | HistoryFeature):
                more = [min(_length(value), spec.max_length) for value in values[name]]
                lengths = [*map(add, lengths, more)]
        return lengths

    def known(self, name: str) -> list[str]:
        """The values that the feature `name` knows, the most frequent first."""
        return list(self._rows[name])

    def unknown(self, name: str, ids: Sequence[str]) -> int:
        """How many of the ids in a history the feature `name` has to skip."""
        rows = self._rows[name]
        return sum(each not in rows for each in ids)


def vocabulary_of(side: Side, name: str, spec: FeatureSpec) -> str | None:
    """The key of a feature's vocabulary in `Schema.vocabularies`, None where it needs none."""
    if isinstance(spec, CategoryFeature):
        return f"{side}.{name}"
    return ITEM_VOCABULARY if isinstance(spec, IdFeature | HistoryFeature) else None


def normalise(text: str) -> str:
    """NFKC, then casefold, then NFKC again, because folding can undo the first."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def folded(texts: Sequence[str], max_length: int, field_name: str = "text") -> list[str]:
    """Texts as a tower reads them: normalised, then cut to so many code points.

    Raises:
        InvalidInput: a value is not a string.
    """
    for text in texts:
        if not isinstance(text, str):
            raise InvalidInput(field_name, f"expected a string, got {type(text).__name__}")
    return [normalise(text)[:max_length] for text in texts]


def text_rows(texts: Sequence[str], spec: TextFeature, field_name: str = "text") -> npt.NDArray[np.int32]:
    """Texts as a tower takes them: int32 (B, L).

    Raises:
        InvalidInput: a value is not a string.
    """
    return code_point_rows(folded(texts, spec.max_length, field_name))


def code_point_rows(texts: Sequence[str]) -> npt.NDArray[np.int32]:
    """The code points of each text, padded with 0 to the longest: int32 (B, L), L at least 1."""
    width = max(map(len, texts), default=0) or 1
    joined = "".join([text.ljust(width, "\0") for text in texts]).encode("utf-32", "surrogatepass")
    return np.ndarray((len(texts), width), np.int32, bytearray(joined), BYTE_ORDER_MARK)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _categories(
    values: Sequence[Any], spec: CategoryFeature, rows: Mapping[str, int], field_name: str
) -> npt.NDArray[np.int64]:
    lists = values if spec.multi else [[] if value is None else [value] for value in values]
    encoded = []
    for each in lists:
        listed = each is None or isinstance(each, list | tuple)
        if not listed or any(not isinstance(value, str) for value in each or ()):
            expected = "a list of strings" if spec.multi else "a string"
            raise InvalidInput(field_name, f"expected {expected}, got {each!r}")
        encoded.append([rows.get(value, UNKNOWN) for value in each or ()])
    width = max(1, max(map(len, encoded), default=1))
    padded = np.full((len(encoded), width), PADDING, np.int64)
    for n, row in enumerate(encoded):
        padded[n, : len(row)] = row
    return padded


def _ids(values: Sequence[Any], rows: Mapping[str, int], field_name: str) -> npt.NDArray[np.int64]:
    for value in values:
        if value is not None and not isinstance(value, str):
            raise InvalidInput(field_name, f"expected an item id, got {value!r}")
    return np.array([[rows.get(value, UNKNOWN)] for value in values], np.int64).reshape(-1, 1)


def _histories(
    values: Sequence[Any], max_length: int, rows: Mapping[str, int], field_name: str
) -> npt.NDArray[np.int64]:
    encoded = []
    for each in values:
        listed = each is None or isinstance(each, list | tuple)
        if not listed or any(not isinstance(value, str) for value in each or ()):
            raise InvalidInput(field_name, f"expected a list of item ids, got {each!r}")
        encoded.append([rows[value] for value in each or () if value in rows][-max_length:])
    width = max(1, max(map(len, encoded), default=1))
    padded = np.full((len(encoded), width), PADDING, np.int64)
    for n, row in enumerate(encoded):
        padded[n, width - len(row) :] = row
    return padded


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
