"""Ten thousand strings of any Unicode: each answered or refused, and the server alive after."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
from twinspire.serving.wire.converters import RequestLimits

EXAMPLES, STRINGS = 100, 100
LONGEST = RequestLimits().max_text_length
HOSTILE = (
    "",
    "\0",
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
    "\U0001d54f" * (LONGEST + 1),
    "漢" * 100_000,
)
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)
strings = st.one_of(unicode, unicode, unicode, st.sampled_from(HOSTILE))


def check(client: RetrievalClient, texts: Sequence[str], dimension: int) -> None:
    """Send texts through Search and Encode, those that are too long one by one."""
    fitting = [text for text in texts if len(text) <= LONGEST]
    if fitting:
        answers = client.search_batch(fitting, k=3, timeout=30)
        assert [len(answer.hits) for answer in answers] == [3] * len(fitting)
        vectors = client.encode(fitting, timeout=30)
        assert vectors.shape == (len(fitting), dimension)
        norms = np.linalg.norm(vectors, axis=1)
        assert np.all((np.abs(norms - 1) < 1e-4) | (norms == 0))
    for text in set(texts) - set(fitting):
        refused(lambda text=text: client.search(text), "query.text")  # type: ignore[misc]
        refused(lambda text=text: client.encode([text]), "queries[0].text")  # type: ignore[misc]


def refused(call: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.field == field


@pytest.mark.exhaustive
def test_ten_thousand_strings(server: RetrievalServer, retriever: Retriever) -> None:
    sent = 0
    dimension = retriever.manifest.dimension
    with RetrievalClient(server.address) as client:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(strings, min_size=STRINGS, max_size=STRINGS))
        def send(texts: list[str]) -> None:
            nonlocal sent
            sent += len(texts)
            check(client, texts, dimension)

        send()
        assert sent >= EXAMPLES * STRINGS
        assert client.search("still there").hits


def test_each_hostile_string_alone(client: RetrievalClient, retriever: Retriever) -> None:
    for text in HOSTILE:
        check(client, [text], retriever.manifest.dimension)
    assert client.search("still there").hits
