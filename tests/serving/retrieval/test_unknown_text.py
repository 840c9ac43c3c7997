"""Texts that say nothing to the query tower, and strings of any Unicode, over a real socket."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.loopback import client_of
from tests.helpers.tiny import item_ids, popularity, tiny_bundle
from tests.helpers.tiny_towers import FULL, TinyTower
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import Answer, Basis
from twinspire.serving.retrieval.encoder import BlankQuery
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.converters import RequestLimits

UNKNOWN = ("", "\0\0", " ", "\U0001f600", "\u2060" * 3)  # the tiny tower counts no code point of these
TEXTS = ("bavuti xelike", *UNKNOWN, "kemolira", "")
EVEN = [1 / 300] * 200 + [0.0] * 100  # each item that occurs at all occurs once


def told(answer: Answer) -> tuple[list[str], Basis]:
    return [hit.id for hit in answer.hits], answer.basis


def check_same(expected: Sequence[Answer], found: Sequence[Answer]) -> None:
    """Answers from other batches are the same up to rounding, and rest on the same."""
    assert differences(expected, found) == []
    assert [answer.basis for answer in found] == [answer.basis for answer in expected]


@pytest.fixture(scope="module", params=[False, True], ids=["zero", "bias"])
def even(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of texts in which no item is more popular than others; an empty text has a vector or none."""
    folder = tmp_path_factory.mktemp("even")
    return tiny_bundle(folder, query_tower=TinyTower(bias=request.param), shares=EVEN)


def test_a_text_that_says_nothing_has_no_hits_alone_in_a_batch_and_in_a_stream(even: Path) -> None:
    with client_of(even) as client:
        alone = [client.search(text, 5) for text in TEXTS]
        check_same(alone, client.search_batch(TEXTS, 5))
        check_same(alone, [*client.search_stream(TEXTS, 5)])
    for text, (ids, basis) in zip(TEXTS, map(told, alone), strict=True):
        assert (len(ids), basis) == ((0, Basis.NONE) if text in UNKNOWN else (5, Basis.QUERY)), text


def test_blank_queries_are_compared_with_a_wider_tolerance_in_a_batch_than_alone() -> None:
    vector = np.array([[0.5, -1.0]], np.float32)
    blank = BlankQuery(vector)  # the tolerance is 0.25 in a batch, 1e-5 alone
    batch = np.array([[9.0, -1.0], [0.74, -1.2], [0.76, -1.0], [float("nan"), -1.0]], np.float32)
    assert blank.places(batch, lambda n: vector) == [1]
    assert blank.places(batch[1:2], lambda n: vector) == []
    assert blank.places(vector + np.float32(5e-6), lambda n: vector) == [0]


def test_a_text_that_says_nothing_gets_popular_items_where_the_bundle_knows_them(plain: Path) -> None:
    shares = dict(zip(item_ids(300), popularity(300), strict=True))
    popular = [each for each in sorted(shares, key=lambda each: -shares[each]) if each != "item-006"][:5]
    with client_of(plain) as client:
        alone = [client.search(text, 5, exclude=["item-006"]) for text in TEXTS]
        check_same(alone, client.search_batch(TEXTS, 5, exclude=["item-006"]))
        check_same(alone, [*client.search_stream(TEXTS, 5, exclude=["item-006"])])
    for text, answer in zip(TEXTS, alone, strict=True):
        assert answer.basis is (Basis.POPULAR if text in UNKNOWN else Basis.QUERY), text
        if text in UNKNOWN:
            assert told(answer)[0] == popular
            assert answer.hits[0].score == pytest.approx(shares[popular[0]])


def test_a_text_in_letters_that_no_training_text_has_says_nothing(tmp_path: Path) -> None:
    """The tower has weights for them, which it has learned of other texts."""
    foreign, mixed = ("жук", "日本 東京", "!жук", "9"), ("ж bavuti", "日本 b")
    folder = tiny_bundle(tmp_path, shares=EVEN, letters="abcdefghijklmnopqrstuvwxyz")
    with client_of(folder) as client:
        alone = [client.search(text, 5) for text in (*foreign, *mixed)]
        check_same(alone, client.search_batch((*foreign, *mixed), 5))
    assert [(len(each.hits), each.basis) for each in alone[:4]] == [(0, Basis.NONE)] * 4
    assert [(len(each.hits), each.basis) for each in alone[4:]] == [(5, Basis.QUERY)] * 2


def test_another_feature_beside_a_text_in_unknown_letters_is_enough(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, query_tower=TinyTower(FULL), letters="abc")
    with client_of(folder) as client:
        answers = client.search_batch([Query("жук", features={"country": "de"}), Query("жук")], 3)
    assert [answer.basis for answer in answers] == [Basis.QUERY, Basis.POPULAR]


def test_a_bundle_whose_example_says_nothing_is_served(tmp_path: Path) -> None:
    examples = ({"text": "\U0001f600"}, {"text": "ba"})
    folder = tiny_bundle(tmp_path, query_tower=TinyTower(FULL), shares=EVEN, examples=examples)
    with client_of(folder) as client:
        assert client.search("\U0001f600").basis is Basis.NONE


LONGEST = RequestLimits().max_text_length


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0a\0",
        "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
        "e\u0301\u0327" + "\u0300" * 100,  # combining marks
        "\u202e\u05e9\u05dc\u05d5\u05dd \u0639\u0644\u064a\u0643\u0645\u202c",  # right to left
        "中文分词与检索",
        "ﷺ" * 1000,  # 18 code points each after NFKC
        "\U0010ffff\ufffe\ufdd0",  # not characters
        "İıßﬃ",
        "\ufeff\u200b\u2028\u2029",
        "a" * LONGEST,
    ],
)
def test_a_string_is_answered(client: RetrievalClient, retriever: Retriever, text: str) -> None:
    assert len(client.search(text, k=3, timeout=30).hits) == 3
    (vector,) = client.encode([text], timeout=30)
    assert vector.shape == (retriever.manifest.dimension,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4) or not vector.any()


@pytest.mark.parametrize("text", ["\U0001d54f" * (LONGEST + 1), "漢" * 100_000])
def test_a_string_that_is_too_long_is_refused(client: RetrievalClient, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.search(text)
    assert caught.value.field == "query.text"
