"""The files of a lexical index, and texts as its terms."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.lexical import HYBRID, postings_of_texts, weights_of_texts
from twinspire.export.hybrid.postings import postings_of
from twinspire.protos.bundle import LEXICAL_FILES
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.hybrid import lexical_index
from twinspire.protos.hybrid.fusion import clicked
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings, term_hash
from twinspire.protos.hybrid.term_weights import weighting_of
from twinspire.protos.lexical import Analyzer
from twinspire.train.evaluation.lexical_model import CountedTerms, LexicalModel

TEXTS = ["read a csv file", "write a file", "readCSV of a frame", "日本語の文書", "", "file file file"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    postings_of_texts(TEXTS, HYBRID).write(tmp_path)
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    written, read = postings_of_texts(TEXTS, HYBRID), Postings.read(folder, len(TEXTS))
    for name in LEXICAL_FILES:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


def test_a_text_is_its_known_words_repeated_ones_too(folder: Path) -> None:
    index = LexicalIndex(Postings.read(folder, len(TEXTS)), HYBRID)
    read, csv = index.terms("read"), index.terms("csv")
    assert index.terms("READ the csv, read_csv!") == read + csv + read + csv
    assert len(index.terms("日本")) == 3  # two characters, and both together
    assert index.terms("nothing of this is known") == index.terms("of") == index.terms("frame of")[1:]
    assert index.terms("") == index.terms("\ud800") == []


def test_a_score_counts_the_words_that_no_text_holds(folder: Path) -> None:
    index = LexicalIndex(Postings.read(folder, len(TEXTS)), HYBRID)
    known, (terms, unknown) = index.terms("read csv"), index.counted_terms("Zzzz read, qqqq csv")
    assert (terms, unknown) == (known, 2)
    idf = float(index.postings.idf[known].sum())
    most = math.log1p((len(TEXTS) + 0.5) / 0.5)  # idf of a word in no text
    lost = HYBRID.weight * 0.9 * (1 - idf / (idf + 2 * most))
    assert index.matched_score(0.8, 0.9, known, 0) == 0.8
    assert index.matched_score(0.8, 0.9, known, 2) == pytest.approx(0.8 - lost)
    # Without known words the vectors alone score, and their part in a hybrid score is less.
    assert index.counted_terms("zzzz") == ([], 1)
    assert index.matched_score(0.8, 0.0, [], 1) == pytest.approx(0.8 * (1 - HYBRID.weight))


def test_a_query_of_training_is_a_term_in_any_case_order_and_punctuation(tmp_path: Path) -> None:
    hybrid = replace(HYBRID, prior_weight=0.5)
    postings_of_texts(TEXTS, HYBRID, {"read csv": {1: 0.5}}).write(tmp_path)
    postings = Postings.read(tmp_path, len(TEXTS))
    index, plain = LexicalIndex(postings, hybrid), LexicalIndex(postings, HYBRID)
    rows = {
        text: clicked(postings, index.terms(text))[0].tolist()
        for text in (*TEXTS, "Read\n CSV ", "csv: read")
    }
    assert {text: found for text, found in rows.items() if found} == {"Read\n CSV ": [1], "csv: read": [1]}
    assert plain.terms("read csv") == index.terms("read csv")[:-1]
    assert index.weights("read csv")[0].tolist() == sorted(plain.terms("read csv"))  # an item is no query


def test_the_weights_of_a_new_text_are_those_of_the_same_item(folder: Path) -> None:
    index = LexicalIndex(Postings.read(folder, len(TEXTS)), HYBRID)
    _, weights = weights_of_texts(TEXTS, HYBRID)
    numbers = {term: number for number, term in enumerate(index.postings.terms.tolist())}
    for text, expected in zip(TEXTS, weights, strict=True):
        terms, found = index.weights(text)
        by_term = {numbers[term_hash(word)]: weight for word, weight in expected.items()}
        assert terms.tolist() == sorted(by_term)
        np.testing.assert_allclose(found, [by_term[term] for term in terms.tolist()], rtol=1e-6)


def test_a_process_does_not_remember_every_word(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical_index, "KNOWN_RUNS", 3)
    index = LexicalIndex(Postings.read(folder, len(TEXTS)), HYBRID)
    before = index.terms("read csv")
    for n in range(50):
        index.terms(f"x{n}")
        assert index._cached_terms.cache_info().currsize <= 3
    assert index.terms("read csv") == before


DAMAGES: dict[str, tuple[str, Any]] = {
    "terms": ("terms", lambda values: values[::-1]),
    "idf of another length": ("idf", lambda values: values[1:]),
    "idf that is no number": ("idf", lambda values: values * np.float32("nan")),
    "starts that end early": ("starts", lambda values: np.minimum(values, values[-1] - 1)),
    "starts that fall": (
        "starts",
        lambda values: np.concatenate([values[:1], values[2:3], values[1:2], values[3:]]),
    ),
    "a row that is no item": ("documents", lambda values: np.where(values == 5, 6, values).astype(np.int32)),
    "a row below 0": ("documents", lambda values: np.where(values == 0, -1, values).astype(np.int32)),
    "rows that fall": ("documents", lambda values: values[::-1]),
    "no weight": ("weights", lambda values: values * 0),
    "another type": ("weights", lambda values: values.astype(np.float64)),
    "another shape": ("weights", lambda values: values[None]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_do_not_fit_are_refused(folder: Path, damage: str) -> None:
    name, change = DAMAGES[damage]
    path = folder / LEXICAL_FILES[name]
    np.save(path, change(np.load(path)))
    with pytest.raises(BundleDamaged, match=f"{name}.npy"):
        Postings.read(folder, len(TEXTS))


def test_tfidf_weighs_a_new_text_as_an_item_of_the_same_text() -> None:
    hybrid = replace(HYBRID, analyzer=Analyzer(ngrams=(1, 2), in_words=True), scoring="tfidf")
    terms = CountedTerms(hybrid.analyzer, TEXTS)
    postings = postings_of(LexicalModel(terms, weighting_of(hybrid)))
    index = LexicalIndex(postings, hybrid)
    for row, text in enumerate(TEXTS):
        numbers, weights = index.weights(text)
        expected = np.zeros(len(postings.terms), np.float32)
        held = np.flatnonzero(postings.documents == row)
        expected[np.searchsorted(postings.starts, held, side="right") - 1] = postings.weights[held]
        np.testing.assert_allclose(weights, expected[numbers], rtol=1e-6)
        assert len(numbers) == len(held)
        assert (weights <= postings.idf[numbers]).all()
