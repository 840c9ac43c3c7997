"""Strings of any Unicode: each is answered or refused, and the server is alive after it."""

import numpy as np
import pytest

from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.converters import RequestLimits

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
