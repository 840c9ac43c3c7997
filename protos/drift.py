"""What a bundle knows of the queries and items that it was made of, so that later ones can be compared.

    drift.npz
        queries            float32 (m, C), of each validation query what `query_measures` gives
        answers            float32 (a, 3), of the answers to some of them: `ANSWERS`
        trained            float32 (n, I), `measures` of items, a sample of those at training
        served             float32 (s, I), a sample of those in this bundle
        rows               int64 (s,), their rows in the bundle, ascending
        words              uint8, a bit for each hash of a word that training has read
        directions         float32 (P, W), of which a query vector (W,) gives its last P measures
        query.<feature>    categories of a feature, the most frequent first; the same for items

Export measures by these functions when it makes a bundle, and the service when its log takes an answer. A
measure is NaN where it does not apply, as the share of unknown words of a text without words.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import DRIFT, Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.features import FeatureSpec, TowerInputs
from twinspire.protos.files.npy_file import stored_arrays
from twinspire.protos.inputs.events import item_ids
from twinspire.protos.lexical import ANALYZERS, runs_of

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]
MeasureQuery = Callable[[Mapping[str, Any], Floats], list[float]]  # of feature -> raw value, and the vector

# The best score, the mean rank by popularity of the first items (0 to 1), and the kind, by its code.
ANSWERS = (("answer.score", ()), ("answer.popularity", ()), ("answer.kind", ("usual", "weak", "empty")))
FIRST = 10  # items of an answer whose popularity is measured
UNKNOWN_ITEMS = ".unknown_items"  # ends the name of a measure
RUNS_KEPT = 4096  # frequent ones, whose words are not looked up again
OTHER = -1.0  # code of a category that is not among the frequent ones
_tokens_of_run = ANALYZERS["characters"].of_run()


class Measure(NamedTuple):
    """A number of each record: `of` takes the raw value of `feature`; of a category the code in `values`."""

    name: str
    feature: str
    of: Callable[[Any], float]
    values: Sequence[str] = ()


@dataclass(frozen=True)
class DriftReference:
    """The content of `drift.npz`, as the module describes it.

    Args:
        categories: `query.<feature>` or `item.<feature>` -> frequent values.
    """

    queries: Floats
    answers: Floats
    trained: Floats
    served: Floats
    rows: npt.NDArray[np.int64]
    words: Bits
    directions: Floats
    categories: Mapping[str, Sequence[str]]

    def write(self, folder: Path) -> None:
        """Write the file into the folder of a bundle."""
        arrays: dict[str, Any] = asdict(self)
        named = {name: np.array(values, np.str_) for name, values in arrays.pop("categories").items()}
        np.savez(folder / DRIFT, allow_pickle=False, **arrays, **named)

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> "DriftReference | None":
        """The reference of a bundle whose files have been verified; None if it has none.

        Raises:
            BundleDamaged: it does not fit the manifest.
        """
        if DRIFT not in manifest.files:
            return None
        try:
            arrays = stored_arrays(folder / DRIFT)
            categories = {name: arrays.pop(name).tolist() for name in [*arrays] if "." in name}
            found = cls(**arrays, categories=categories)
            width, bits = manifest.width("query"), len(found.words)
            if found.directions.shape[1:] != (width,) or found.words.dtype != np.uint8 or not bits:
                raise ValueError(f"expected directions of {width} numbers, and bytes of words")
        except Exception as error:  # NumPy's and those of damaged archives share no other base
            raise BundleDamaged(f"{folder / DRIFT}: {error}") from None
        return found


def query_measures(inputs: TowerInputs, reference: DriftReference) -> MeasureQuery:
    """The function that measures a query of a bundle: by its features, then by its vector (W,)."""
    columns = measures(inputs, reference.categories, reference.words.tobytes())
    directions = reference.directions

    def of(values: Mapping[str, Any], vector: Floats) -> list[float]:
        along: list[float] = (directions @ vector).tolist()
        return [each.of(values.get(each.feature)) for each in columns] + along

    return of


def measures(
    inputs: TowerInputs, categories: Mapping[str, Sequence[str]], words: bytes = b""
) -> list[Measure]:
    """What is measured of the features of a tower.

    Args:
        categories: as of `DriftReference`.
        words: bits of the known words; without them, their share in texts is not measured.
    """
    found: list[Measure] = []
    of_run = lru_cache(RUNS_KEPT)(partial(_unknown_of_run, words))  # a fifth of the time
    for name, spec in inputs.features.items():
        if spec.kind == "category":
            values = categories.get(f"{inputs.side}.{name}", ())
            codes = {value: float(n) for n, value in enumerate(values)}
            found.append(Measure(name, name, partial(_code, codes), values))
        elif spec.kind == "number":
            found.append(Measure(name, name, lambda value: math.nan if value is None else float(value)))
        elif spec.kind in ("text", "history", "negative_history"):
            found.append(Measure(f"{name}.length", name, partial(_length, spec)))
        if spec.kind == "text" and words:
            share = partial(_unknown_words, of_run, spec.longest)
            found.append(Measure(f"{name}.unknown_words", name, share))
        elif spec.kind in ("history", "negative_history"):
            found.append(Measure(f"{name}{UNKNOWN_ITEMS}", name, partial(_unknown_items, inputs, name)))
    return found


def word_bits(texts: Iterable[str]) -> Bits:
    """The bits of all words of some texts, 1 to 512 KiB.

    Of other words up to one in eight is taken for known; of more than half a million known words more, 38 %
    at two million.
    """
    runs = {run for text in texts for run in runs_of(text)}  # far fewer than they occur
    words = {word for run in runs for word in _tokens_of_run(run)}
    size = 1 << min(max(len(words).bit_length(), 10), 19)  # bytes, so 8 to 16 bits a word
    bits = np.zeros(8 * size, np.uint8)
    bits[[_place(word, size) for word in words]] = 1
    return np.packbits(bits, bitorder="little")


def first_category(value: str | Sequence[str] | None) -> str:
    """The category of a raw value, of several the first; empty if it has none."""
    return value if isinstance(value, str) else next(iter(value or ()), "")


def _code(codes: Mapping[str, float], value: Any) -> float:
    category = first_category(value)
    return codes.get(category, OTHER) if category else math.nan


def _length(spec: FeatureSpec, value: Any) -> float:
    return float(sum(spec.lengths([value]) or ()))


def _unknown_words(of_run: Callable[[str], tuple[int, int]], longest: int, text: str) -> float:
    counts = [*map(of_run, runs_of(text[:longest]))]
    words = sum([each for _, each in counts])
    return sum([each for each, _ in counts]) / words if words else math.nan


def _unknown_of_run(bits: bytes, run: str) -> tuple[int, int]:
    """How many words of a run are unknown, and how many there are."""
    places = [_place(word, len(bits)) for word in _tokens_of_run(run)]
    return sum([not bits[each >> 3] >> (each & 7) & 1 for each in places]), len(places)


def _unknown_items(inputs: TowerInputs, name: str, history: Sequence[Any] | None) -> float:
    return inputs.unknown(name, item_ids(history)) / len(history) if history else math.nan


def _place(word: str, size: int) -> int:
    """The number of a word's bit; no power of two, for which similar words would share places."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % (8 * size - 1)
