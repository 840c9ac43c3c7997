"""Weights of documents by term, in files that all processes map and share.

    lexical/terms.npy       uint64 (V,): hashes of the terms, ascending; their place is the term's number
    lexical/idf.npy         float32 (V,): inverse document frequency, frozen; 0 of a prior (below)
    lexical/starts.npy      int64 (V + 1,): where the postings of a term begin
    lexical/documents.npy   int32 (P,): rows of the items that hold a term, ascending for each term
    lexical/weights.npy     float32 (P,): what the term adds to the item's score

The weights are those of BM25 or TF-IDF (`term_weights.py`), and none is above the idf. A process looks terms
up by their hashes: a dictionary of 57,000 strings would take 9 MB in each worker.

In a bundle with priors (`Hybrid.prior_weight`) each query of training is a term, too: its postings are the
items that were clicked after it, its weights are their priors, and its idf is 0.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import LEXICAL_FILES, Hybrid, Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.files.npy_file import map_array
from twinspire.protos.hybrid.term_weights import inverse_frequency, text_weights, weighting_of
from twinspire.protos.inputs.query_words import query_key
from twinspire.protos.lexical import runs_of

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

KNOWN_RUNS = 20_000  # words whose terms a process caches
LONGEST_KNOWN = 32  # most characters of such a word; a text without spaces is one, and is rarely repeated
_DTYPES = {
    "terms": np.uint64,
    "idf": np.float32,
    "starts": np.int64,
    "documents": np.int32,
    "weights": np.float32,
}


@dataclass(frozen=True)
class Postings:
    """V terms and the N items that hold them.

    Args:
        terms: uint64 (V,), hashes in ascending order.
        idf: float32 (V,), above 0 of words, and 0 of whole queries.
        starts: int64 (V + 1,); the postings of term v are those from `starts[v]` to before `starts[v + 1]`.
        documents: int32 (P,), rows of items, ascending for each term.
        weights: float32 (P,), above 0.
        count: N.
    """

    terms: npt.NDArray[np.uint64]
    idf: Floats
    starts: Rows
    documents: npt.NDArray[np.int32]
    weights: Floats
    count: int

    def write(self, folder: Path) -> None:
        """Write the files into a bundle's folder."""
        for name, path in LEXICAL_FILES.items():
            (folder / path).parent.mkdir(exist_ok=True)
            np.save(folder / path, np.asarray(getattr(self, name), _DTYPES[name]), allow_pickle=False)

    @classmethod
    def read(cls, folder: Path, count: int) -> "Postings":
        """Map the files of a verified bundle of N items.

        Raises:
            BundleDamaged: they are not what `write` makes; the text names the file.
        """
        arrays = {
            name: map_array(folder / path, _DTYPES[name], (None,)) for name, path in LEXICAL_FILES.items()
        }
        found = cls(**arrays, count=count)
        for name, problem in found._problems():
            if problem:
                raise BundleDamaged(f"{folder / LEXICAL_FILES[name]}: {problem}")
        return found

    def _problems(self) -> Iterable[tuple[str, str]]:
        """Name of a file, and what is wrong with it or ""; the compiled search relies on these checks."""
        vocabulary, postings = len(self.terms), len(self.documents)
        yield "terms", "" if (self.terms[1:] > self.terms[:-1]).all() else "expected ascending hashes"
        is_idf = self.idf.shape == (vocabulary,) and np.isfinite(self.idf).all() and (self.idf >= 0).all()
        yield "idf", "" if is_idf else "expected numbers of at least 0"
        starts = self.starts
        is_whole = starts.shape == (vocabulary + 1,) and starts[0] == 0 and starts[-1] == postings
        yield "starts", "" if is_whole and (starts[1:] >= starts[:-1]).all() else "expected ascending places"
        is_row = not postings or 0 <= self.documents.min() <= self.documents.max() < self.count
        yield "documents", "" if is_row else f"expected rows below {self.count}"
        inside = np.ones(postings, np.bool_)
        inside[starts[:-1][starts[:-1] < postings]] = False
        rising = self.documents[1:] > self.documents[:-1]
        yield "documents", "" if (rising | ~inside[1:]).all() else "expected ascending rows for each term"
        fits = self.weights.shape == (postings,) and (np.isfinite(self.weights) & (self.weights > 0)).all()
        yield "weights", "" if fits else "expected a number above 0 for each document"


class LexicalIndex:
    """Texts to terms, and their postings; safe to call from several threads.

    Args:
        hybrid: how texts are split and weights are computed.

    Attributes:
        postings, hybrid: as given.
        has_words: whether it holds any; else only whole queries.
    """

    def __init__(self, postings: Postings, hybrid: Hybrid) -> None:
        self.postings, self.hybrid = postings, hybrid
        self.has_words = bool((postings.idf > 0).any())
        self._unknown_idf = float(inverse_frequency(hybrid.scoring, 0, postings.count))
        self._of_run = of_run = hybrid.analyzer.of_run()
        known = postings.terms

        def terms_of(run: str) -> tuple[list[int], int]:
            tokens = of_run(run)
            found = _lookup(known, tokens)
            return found, len(tokens) - len(found)

        self._terms_of = terms_of
        self._cached_terms = functools.lru_cache(KNOWN_RUNS)(terms_of)

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "LexicalIndex | None":
        """The index of a verified bundle; None if it is not hybrid.

        Raises:
            BundleDamaged: as `Postings.read`.
        """
        if manifest.hybrid is None:
            return None
        return cls(Postings.read(folder, manifest.count), manifest.hybrid)

    def terms(self, text: str) -> list[int]:
        """Numbers of the terms of a query, repeated ones included; unknown ones are left out."""
        return self.counted_terms(text)[0]

    def counted_terms(self, text: str) -> tuple[list[int], int]:
        """As `terms`, and how many terms of the text are unknown."""
        found: list[int] = []
        unknown = 0
        for run in runs_of(text):
            known, others = self._cached_terms(run) if len(run) <= LONGEST_KNOWN else self._terms_of(run)
            found += known
            unknown += others
        if self.hybrid.prior_weight and (key := query_key(text)):
            found += _lookup(self.postings.terms, [whole_query(key)])
        return found, unknown

    def matched_score(self, score: float, lexical: float, terms: Sequence[int], unknown: int) -> float:
        """The score of a hit, less what its lexical part owes to leaving out unknown words.

        These are words that no item held when the bundle was exported. The upper bound of a lexical score
        leaves them out. So one word of an item among others that mean nothing gives it nearly the highest
        score; here the share of that word's idf counts.

        Args:
            score: by the bundle's convex combination, or by the vectors alone without known terms.
            lexical: the lexical part of it.
            terms, unknown: of the query, as `counted_terms` gives them.
        """
        weight, own = self.hybrid.weight, float(self.postings.idf[terms].sum())
        if not terms:
            return (1 - weight) * score
        return (
            score - weight * lexical * (1 - own / (own + unknown * self._unknown_idf)) if unknown else score
        )

    def weights(self, text: str) -> tuple[npt.NDArray[np.int32], Floats]:
        """The terms of an item's text, ascending, and the weight of each: int32 (T,) and float32 (T,)."""
        tokens = [token for run in runs_of(text) for token in self._of_run(run)]
        terms, counts = np.unique(
            np.array(_lookup(self.postings.terms, tokens), np.int64), return_counts=True
        )
        idf, only = self.postings.idf[terms], np.zeros(len(terms), np.int64)  # the number of the text
        relative_length = np.array([len(tokens) / self.hybrid.mean_length])
        return terms.astype(np.int32), text_weights(
            weighting_of(self.hybrid), idf, counts, only, relative_length
        )


def _lookup(known: npt.NDArray[np.uint64], tokens: Sequence[str]) -> list[int]:
    """The numbers of tokens: their places among ascending hashes. Unknown tokens are left out."""
    hashes = np.array([term_hash(token) for token in tokens], np.uint64)
    places = known.searchsorted(hashes)
    inside = np.minimum(places, len(known) - 1)
    return inside[known[inside] == hashes].tolist() if len(known) else []


def whole_query(key: str) -> str:
    """The term of a query whose `query_key` is given; no word of a text begins with a space."""
    return f" {key}"


def term_hash(token: str) -> int:
    """The 64-bit hash of a term; export checks that the hashes of a bundle's terms are distinct."""
    content = token.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
