"""Query or item to vector: `features.py` makes arrays of it, an ONNX tower on ONNX Runtime the vector.

`Encoder` runs a tower, and `length_batches` divides queries into batches of like length. `QueryEncoder`
encodes queries, and finds by `bases`, `BlankQuery` and `KnownLetters` those of which the tower knows nothing.
"""

from twinspire.serving import environment  # noqa: F401  # before ONNX Runtime is imported

# isort: split
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from twinspire.protos.bundle import TOWERS, Manifest
from twinspire.protos.errors import BundleDamaged, InvalidInput
from twinspire.protos.features import (
    CODE_POINTS,
    FIRST_KNOWN,
    PADDING,
    Arrays,
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    Side,
    TextFeature,
    TimeFeature,
    TowerInputs,
)
from twinspire.protos.files.onnx_file import check_self_contained
from twinspire.protos.inputs.events import item_ids
from twinspire.protos.names import near
from twinspire.serving.retrieval.answer import Basis
from twinspire.serving.retrieval.query import (
    PLAIN,
    PreparedQuery,
    Query,
    QueryContext,
    QueryForm,
    RawValue,
    Vectors,
    accepted_features,
    refuse_nan,
    text_is_required,
)
from twinspire.serving.segments.vector_index import NOT_FINITE

MAX_PADDING = 192  # padded places in one call; at D = 128 and 512, 96 to 256 are within an eighth as fast
MAX_QUERIES = 64  # in one call; above it memory grows and speed does not
OUTPUT = "vector"
OUTPUTS = [OUTPUT]
ItemEncoder = Callable[[Sequence[Query]], Vectors]  # items, with features only -> float32 (B, D)
ELEMENT_TYPES: dict[type[np.generic], str] = {
    np.int32: "tensor(int32)",
    np.int64: "tensor(int64)",
    np.float32: "tensor(float)",
}


class Encoder:
    """A tower of a bundle; safe to call from several threads.

    Args:
        folder: of a bundle whose files have been verified.
        threads: of ONNX Runtime inside one call.
        side: which of the two towers.

    Raises:
        BundleDamaged: the tower is not an ONNX model, has weights outside its file, or is not the one that
            the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest, threads: int = 1, side: Side = "query") -> None:
        path = folder / TOWERS[side]
        self.inputs = manifest.schema.side(side)
        features = [*self.inputs.features.items()]
        name, spec = features[0]
        alone = len(features) == 1 and isinstance(spec, TextFeature) and len(spec.arrays(name)) == 1
        self._text = (name, spec.converters(name, {}, manifest.schema.folder)[name]) if alone else None
        self._session = _open(path, threads)
        # `InferenceSession.run` would check the inputs' names in each call; `_check` has done that once.
        self._run = getattr(self._session, "_sess", self._session).run
        _check(self._session, path, self.inputs.features, manifest, side)

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Queries as the tower's inputs, (B, ...) each.

        Args:
            rows: for each query, feature name -> raw value, None where absent.

        Raises:
            InvalidInput: a value does not fit its feature; `raise_for_bad_row` names its query.
        """
        if self._text is not None and len(rows) == 1:  # the usual case: one query with one feature, a text
            name, convert = self._text
            return {name: convert([rows[0][name]], "text")}
        return self.inputs.to_arrays(_columns(self.inputs, rows))

    def raise_for_bad_row(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """Name the first row that `arrays` refuses.

        Args:
            rows: as `arrays` takes them.
            names: of the rows in errors, such as `queries[3]`.

        Raises:
            InvalidInput: the field is `<name>.features.<feature>`.
        """
        for row, name in zip(rows, names, strict=True):
            try:
                self.inputs.to_arrays(_columns(self.inputs, [row]))
            except InvalidInput as error:
                feature = error.field.removeprefix(f"{self.inputs.side}.")
                raise InvalidInput(f"{name}.features.{feature}", error.reason) from None

    def length_batches(self, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Places of the queries, as `arrays` takes them, that one call should encode together."""
        return length_batches(self.inputs.lengths(_columns(self.inputs, rows), len(rows)))

    def vectors(self, arrays: Arrays) -> Vectors:
        """The tower's vectors of its inputs, float32 (B, D).

        Raises:
            ArithmeticError: one is not finite.
        """
        return require_finite(self.unchecked(arrays))

    def unchecked(self, arrays: Arrays) -> Vectors:
        """As `vectors`, without the check for NaN and infinity; the caller checks the scores."""
        vectors: Vectors = self._run(OUTPUTS, arrays, None)[0]
        return vectors


def require_finite(vectors: Vectors) -> Vectors:
    """The vectors (B, D) of a tower, unchanged.

    Raises:
        ArithmeticError: one is not finite, which no valid query should cause.
    """
    # A sum of squares takes half the time of a check of each number. It may overflow; then each is checked.
    if not math.isfinite(np.vdot(vectors, vectors)) and not np.isfinite(vectors).all():
        raise ArithmeticError(NOT_FINITE)
    return vectors


def item_encoder(folder: Path, manifest: Manifest) -> ItemEncoder:
    """Load the item tower, which searches do not need, for items that the catalogue does not hold.

    Args:
        folder: of a bundle whose files have been verified.

    Returns:
        A function of items, which hold only features; its InvalidInput calls the n-th item `items[n]`.

    Raises:
        BundleDamaged: the tower is not an ONNX model, or not the one that the manifest describes.
    """
    encoder = Encoder(folder, manifest, side="item")

    def encode(items: Sequence[Query]) -> Vectors:
        names = [f"items[{n}]" for n in range(len(items))]
        for item, name in zip(items, names, strict=True):
            _check_item(item, encoder.inputs.features, name)
        values = [_item_values(item, encoder.inputs.features) for item in items]
        vectors = np.empty((len(items), manifest.width("item")), np.float32)
        try:
            for places in encoder.length_batches(values):
                vectors[places] = encoder.vectors(encoder.arrays([values[n] for n in places]))
        except InvalidInput:
            encoder.raise_for_bad_row(values, names)
            raise
        return vectors

    return encode


def _check_item(item: Query, features: Mapping[str, FeatureSpec], name: str) -> None:
    """Refuse an item with unknown features, with NaN, or with a text missing or blank; as writes do."""
    for feature, value in item.features.items():
        if feature not in features:
            known = accepted_features(features, "item")
            reason = f"unknown feature; {known}{near(feature, features)}"
            raise InvalidInput(f"{name}.features.{feature}", reason)
        refuse_nan(value, f"{name}.features.{feature}")
    for feature, spec in features.items():
        if isinstance(spec, TextFeature):
            if feature not in item.features:
                reason = "required by this bundle's item tower, but missing"
                raise InvalidInput(f"{name}.features.{feature}", reason)
            if not str(item.features[feature]).strip():
                raise InvalidInput(f"{name}.features.{feature}", "expected a text, got a blank one")


def _item_values(item: Query, features: Mapping[str, FeatureSpec]) -> dict[str, RawValue | None]:
    """The value of each feature; a single text of a category with several values is a list of it."""
    found: dict[str, RawValue | None] = {}
    for name, spec in features.items():
        value = item.features.get(name)
        if isinstance(spec, CategoryFeature) and spec.multi and isinstance(value, str):
            value = [value]
        found[name] = value
    return found


def length_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of the queries that one call should encode together, the shortest queries first.

    A tower computes a vector for each place of each text or history, padding included. 32 queries of `pydocs`
    at D = 512 take 2.0 ms when all are padded to the longest, and 1.0 ms in three such batches.

    Args:
        lengths: of each query, at least one.
    """
    count = len(lengths)
    if count <= MAX_QUERIES and count * max(lengths) - sum(lengths) <= MAX_PADDING:
        return [list(range(count))]
    parts: list[list[int]] = [[]]
    total = 0
    for place in sorted(range(count), key=lengths.__getitem__):
        part, length = parts[-1], lengths[place]
        if len(part) == MAX_QUERIES or len(part) * length - total > MAX_PADDING:
            parts.append([])
            total = 0
        parts[-1].append(place)
        total += length
    return parts


class BlankQuery:
    """Finds the queries of which a query tower with a text feature knows nothing.

    Such a query has the same vector as the blank query, in which every feature is absent: its text has no
    n-gram or word with a weight in the tower, and it has no other feature. That vector is zero in many
    towers, but not in those with a bias.

    Args:
        vector: of the blank query, float32 (1, D).
    """

    EQUAL = 1e-5  # tolerance as a part of the largest coordinate: rounding of float32
    # Tolerance in a batch, where int8 layers may take their scales from the whole batch. This wide bound was
    # chosen, not measured: a query within it is encoded again alone, and compared by EQUAL.
    NEAR = 0.25

    def __init__(self, vector: Vectors) -> None:
        self._vector = vector
        first, largest = float(vector[0, 0]), float(np.abs(vector).max())
        self._equal, self._near = self.EQUAL * largest, self.NEAR * largest
        self._low, self._high = first - self._near, first + self._near

    def places(self, vectors: Vectors, encode_alone: Callable[[int], Vectors]) -> list[int]:
        """The places of such queries in a batch; the same as if each query were encoded alone.

        Args:
            vectors: of the batch, float32 (B, D).
            encode_alone: place -> the vector (1, D) of that query, encoded without the others.
        """
        low, high = self._low, self._high
        # The first coordinates tell most queries apart in 1 to 2 us for a batch; whole vectors take 7 us.
        if not [first for first in vectors[:, 0].tolist() if low <= first <= high]:
            return []
        if len(vectors) == 1:
            return [0] if self._equals(vectors) else []
        near = np.flatnonzero(np.abs(vectors - self._vector).max(axis=1) <= self._near).tolist()
        return [n for n in near if self._equals(vectors[n]) or self._equals(encode_alone(n))]

    def _equals(self, vector: Vectors) -> bool:
        return bool(np.abs(vector - self._vector).max() <= self._equal)


class KnownLetters:
    """Finds texts in letters that no training text has.

    The tower hashes all letters into one table, so such a text gets weights of other texts, and would find
    arbitrary items.

    Args:
        letters: letters and digits of the training texts, normalised.
        names: of the features whose arrays hold code points.
    """

    def __init__(self, letters: str, names: Sequence[str]) -> None:
        self._names = names
        self._end = max(map(ord, letters)) + 1
        self._known = np.zeros(self._end + 1, bool)  # the last element is for all higher code points
        self._known[[ord(each) for each in letters]] = True

    def places_without(self, arrays: Arrays) -> list[int]:
        """The places of the queries whose texts have none of the letters.

        Args:
            arrays: the inputs of the query tower, (B, ...) each.
        """
        first = arrays[self._names[0]]
        if len(first) == 1 and self._known.item(min(first.item(0), self._end)):  # true of most single queries
            return []
        found = np.zeros(len(first), bool)
        for name in self._names:
            found |= self._known[np.minimum(arrays[name], self._end)].any(axis=1)
        return np.flatnonzero(~found).tolist()


class QueryEncoder:
    """The query tower of a bundle, and how much it knows of each query.

    Args:
        tower: the query tower.
        manifest: of the bundle.
        rows_of: gives the rows of the items that the catalogue holds, of some ids.
        unknown_basis: the basis of queries of which the tower knows nothing.

    Attributes:
        form: how the fields of a query fill the tower's features.
        tower: may be replaced by the same one, opened again.
        blank_vector: of a query in which every feature is absent, float32 (1, D).

    Raises:
        BundleDamaged: the tower cannot encode that query.
    """

    def __init__(
        self,
        tower: Encoder,
        manifest: Manifest,
        rows_of: Callable[[Iterable[str]], set[int]],
        unknown_basis: Basis,
    ) -> None:
        self.tower, self.form = tower, QueryForm(manifest.schema.query)
        self._version, self._width = manifest.bundle_version, manifest.width("query")
        self._rows_of, self._unknown_basis = rows_of, unknown_basis
        self._unknown_context = QueryContext(basis=unknown_basis)
        features = self.form.features.items()
        self._histories = [name for name, spec in features if isinstance(spec, HistoryFeature)]
        texts = {name: spec for name, spec in features if isinstance(spec, TextFeature)}
        times = {name for name, spec in features if isinstance(spec, TimeFeature)}
        self._texts_and_times = texts.keys() | times
        self.blank_vector = self.encode_blank()
        self._blank = BlankQuery(self.blank_vector) if texts else None
        hashed = [name for name, spec in texts.items() if spec.input == CODE_POINTS]
        is_checked = bool(manifest.letters and hashed) and len(hashed) == len(texts)
        self._letters = KnownLetters(manifest.letters, hashed) if is_checked else None

    def encode(self, raw: Sequence[PreparedQuery]) -> tuple[Vectors, list[QueryContext]]:
        """Vectors (B, D) and contexts of queries that are not items, at least one.

        Raises:
            InvalidInput: a value does not fit its feature; the field begins with the query's name.
        """
        parts = [] if len(raw) == 1 else self.tower.length_batches([each.values or {} for each in raw])
        if len(parts) < 2:
            return self._encode_batch(raw)
        vectors = np.empty((len(raw), self._width), np.float32)
        contexts = [PLAIN] * len(raw)
        for places in parts:
            vectors[places], some = self._encode_batch([raw[place] for place in places])
            for place, each in zip(places, some, strict=True):
                contexts[place] = each
        return vectors, contexts

    def _encode_batch(self, raw: Sequence[PreparedQuery]) -> tuple[Vectors, list[QueryContext]]:
        """As `encode`, all in one batch."""
        values: Sequence[Mapping[str, Any]] = [each.values or {} for each in raw]
        try:
            arrays = self.tower.arrays(values)
        except InvalidInput:
            self.tower.raise_for_bad_row(values, [each.name for each in raw])
            raise
        vectors = self.tower.unchecked(arrays)
        contexts = [PLAIN] * len(raw) if self.form.needs_text else self._contexts(values, arrays)
        if self._blank is not None:
            tower = self.tower
            for place in self._blank.places(
                vectors, lambda n: tower.unchecked(tower.arrays(values[n : n + 1]))
            ):
                self._note_unknown(contexts, place)
        if self._letters is not None:
            for place in self._letters.places_without(arrays):
                if self._has_only_text(values[place]):
                    self._note_unknown(contexts, place)
        return vectors, contexts

    def _has_only_text(self, values: Mapping[str, Any]) -> bool:
        """Whether all features but texts are absent; a time does not count, because it describes no user."""
        others = (value for name, value in values.items() if name not in self._texts_and_times)
        return all(value is None or value in ("", (), []) for value in others)

    def _note_unknown(self, contexts: list[QueryContext], place: int) -> None:
        """Set the basis in `contexts` of a query of which the tower knows nothing."""
        context, basis = contexts[place], self._unknown_basis
        contexts[place] = self._unknown_context if context is PLAIN else replace(context, basis=basis)

    def _contexts(self, values: Sequence[Mapping[str, Any]], arrays: Arrays) -> list[QueryContext]:
        """The contexts of queries to a tower that does not require a text: histories and bases."""
        contexts = []
        for each, basis in zip(values, bases(self.form.features, arrays), strict=True):
            histories = [(name, item_ids(each[name] or ())) for name in self._histories]
            rows = self._rows_of(item_id for _, history in histories for item_id in history)
            unknown = sum(self.tower.inputs.unknown(name, history) for name, history in histories)
            basis = self._unknown_basis if basis is Basis.POPULAR else basis
            contexts.append(QueryContext(None, frozenset(rows), unknown_history=unknown, basis=basis))
        return contexts

    def encode_blank(self) -> Vectors:
        """The vector (1, D) of a query in which every feature is absent.

        Some towers require a text from clients, but every tower must encode this query.

        Raises:
            BundleDamaged: the query tower cannot.
        """
        try:
            return self.tower.unchecked(self.tower.arrays([self.form.blank]))
        except Exception as error:  # ONNX Runtime's errors share no other base
            name = self._version[:12]
            raise BundleDamaged(f"bundle {name}: the query tower fails on an empty query: {error}") from error


def bases(features: Mapping[str, FeatureSpec], arrays: Arrays) -> list[Basis]:
    """The basis of the answer to each query of a batch, by the inputs that the tower knows.

    Args:
        arrays: its inputs, (B, ...) each.
    """
    known = {name: _is_known(spec, arrays[name]) for name, spec in features.items()}
    anything = np.logical_or.reduce(list(known.values()))  # (B,)
    if text_is_required(features):  # `BlankQuery` and `KnownLetters` find texts that the tower does not know
        return [Basis.QUERY] * len(anything)
    histories = [known[name] for name, spec in features.items() if isinstance(spec, HistoryFeature)]
    if histories and any(isinstance(spec, TimeFeature) for spec in features.values()):
        # The figures of the export rank queries without a history by the tower, too: a tower that holds
        # recent popularity ranks by what was popular at the query's time.
        anything = np.ones_like(anything)
    enough = np.logical_or.reduce(histories) if histories else anything  # (B,)
    return [
        Basis.QUERY if whole else Basis.CONTEXT if some else Basis.POPULAR
        for whole, some in zip(enough.tolist(), anything.tolist(), strict=True)
    ]


def _is_known(spec: FeatureSpec, array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each query has a value of the feature that the tower knows: bool (B,)."""
    if spec.kind == "time":  # describes no user
        return np.zeros(len(array), bool)
    if spec.kind == "number":
        known = ~np.isnan(array)
    else:
        known = array >= (PADDING + 1 if spec.kind == "text" else FIRST_KNOWN)
    found: npt.NDArray[np.bool_] = known.any(axis=1)
    return found


def _columns(inputs: TowerInputs, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {feature: [row[feature] for row in rows] for feature in inputs.features}


def _open(path: Path, threads: int) -> onnxruntime.InferenceSession:
    check_self_contained(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no other base
        raise BundleDamaged(f"{path}: ONNX Runtime cannot load it: {str(error) or repr(error)}") from None


def _check(
    session: onnxruntime.InferenceSession,
    path: Path,
    features: Mapping[str, FeatureSpec],
    manifest: Manifest,
    side: Side,
) -> None:
    arrays = [array for name, spec in features.items() for array in spec.arrays(name).items()]
    expected = {name: ELEMENT_TYPES[dtype] for name, dtype in arrays}
    found = {node.name: node.type for node in session.get_inputs()}
    if found != expected:
        raise BundleDamaged(f"{path}: takes {found}, but the manifest's features are {expected}")
    outputs = {node.name: node.shape for node in session.get_outputs()}
    if OUTPUT not in outputs:
        raise BundleDamaged(f"{path}: gives {sorted(outputs)}, expected an output named {OUTPUT}")
    shape, width = outputs[OUTPUT], manifest.width(side)
    if len(shape) != 2 or shape[1] != width:
        several = f", and a query has {width // manifest.dimension} vectors" * (width > manifest.dimension)
        text = f"gives {shape}, but the manifest's dimension is {manifest.dimension}{several}"
        raise BundleDamaged(f"{path}: {text}")
