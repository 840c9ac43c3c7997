"""Histories over a real socket: what they rest on, what they leave out, and what is refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.loopback import client_of, client_on
from tests.helpers.tiny import RETIRED, item_ids, popularity, watched_bundle
from tests.helpers.tiny_towers import HISTORY, TEXT
from twinspire.protos.bundle import VECTORS, Score
from twinspire.protos.features import FeatureSpec
from twinspire.serving.client import AsyncRetrievalClient, RetrievalClient
from twinspire.serving.retrieval.answer import Answer, Basis
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.converters import RequestLimits

UNKNOWN = "item-010"  # to the tower; the catalogue holds it
QUERIES = [
    Query(history=("item-001", "item-002", "item-003")),
    Query(history=(UNKNOWN, "item-002", "nonsense"), features={"country": "fr"}),
    Query(features={"country": "de"}),
    Query(history=(UNKNOWN,)),
    Query(item_id="item-005"),
    Query(),
    Query(history=tuple(item_ids(120)[1::2])),  # so many to leave out that all items are compared
]


@pytest.fixture(scope="module")
def client(watched: Path) -> Iterator[RetrievalClient]:
    with client_on(Retriever.load(watched), RequestLimits(max_values=100)) as client:
        yield client


@pytest.fixture(scope="module")
def vectors(watched: Path) -> npt.NDArray[np.float32]:
    loaded: npt.NDArray[np.float32] = np.load(watched / VECTORS)
    return loaded


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer.hits]


def most_popular(k: int, *without: str) -> list[str]:
    shares = dict(zip(item_ids(300), popularity(300), strict=True))
    return [each for each in sorted(shares, key=lambda each: -shares[each]) if each not in without][:k]


def rest_on(client: RetrievalClient, query: Query) -> tuple[Basis, int]:
    answer = client.search(query)
    return answer.basis, answer.unknown_history


def test_a_history_is_read_oldest_first(client: RetrievalClient, vectors: npt.NDArray[np.float32]) -> None:
    found = client.encode([Query(history=("item-001", "item-002")), Query(history=("item-002", "item-001"))])
    mean = (vectors[1] + vectors[2]) / 2
    np.testing.assert_allclose(found, [mean + vectors[2], mean + vectors[1]], atol=1e-5)


def test_only_the_newest_known_items_count(client: RetrievalClient, vectors: npt.NDArray[np.float32]) -> None:
    history = ("item-008", "item-001", UNKNOWN, "item-002", "item-003", "nonsense", "item-004")
    (found,) = client.encode([Query(history=history)])
    np.testing.assert_allclose(found, vectors[1:5].mean(axis=0) + vectors[4], atol=1e-5)
    assert rest_on(client, Query(history=history)) == (Basis.QUERY, 2)


def test_scores_are_inner_products(client: RetrievalClient, vectors: npt.NDArray[np.float32]) -> None:
    answer = client.search(Query(history=("item-001", "item-002")), k=300)
    products = vectors @ ((vectors[1] + vectors[2]) / 2 + vectors[2])
    expected = dict(zip(item_ids(300), products.tolist(), strict=True))
    assert {hit.id: hit.score for hit in answer.hits} == pytest.approx(expected, abs=1e-5)
    assert answer.hits[0].score > 1


def test_the_history_is_left_out_where_that_is_asked_for(client: RetrievalClient) -> None:
    history = (RETIRED, "nonsense", "item-008", "item-009", UNKNOWN, *(f"item-00{n}" for n in range(1, 7)))
    kept = client.search(Query(history=history), k=20)
    assert "item-006" in ids(kept)
    left = client.search(Query(history=history), k=20, exclude_history=True)
    assert ids(left)[:10] == [each for each in ids(kept) if each not in history][:10]
    everything = client.search(Query(history=history), k=300, exclude_history=True)
    assert sorted(ids(everything)) == sorted({*item_ids(300)} - {*history})
    rest = client.search(Query(history=history), k=5, exclude=ids(left)[:3], exclude_history=True)
    assert ids(rest) == ids(left)[3:8]


def test_without_a_known_item_the_context_answers(client: RetrievalClient) -> None:
    assert rest_on(client, Query(features={"country": "de"})) == (Basis.CONTEXT, 0)
    query = Query(history=(UNKNOWN, "nonsense"), features={"country": "de"})
    assert rest_on(client, query) == (Basis.CONTEXT, 2)
    assert UNKNOWN not in ids(client.search(query, k=300, exclude_history=True))
    assert rest_on(client, Query(history=("item-001",))) == (Basis.QUERY, 0)


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        (Query(), 0),
        (Query(features={"history": ()}), 0),
        (Query(features={"country": "nowhere"}), 0),
        (Query(history=("item-120", UNKNOWN), features={"country": "nowhere"}), 2),
    ],
)
def test_where_nothing_is_known_the_popular_answer(
    client: RetrievalClient, query: Query, unknown: int
) -> None:
    assert rest_on(client, query) == (Basis.POPULAR, unknown)
    answer = client.search(query, k=12, exclude=["item-006"])
    assert ids(answer) == most_popular(12, "item-006")
    assert answer.hits[0].score == pytest.approx(popularity(300)[6])
    assert answer.hits[0].fields["name"]


@pytest.mark.parametrize(("repeats", "leaves_out"), [("first", True), ("keep", False)])
def test_without_a_wish_histories_are_left_out_as_the_bundle_was_evaluated(
    tmp_path: Path, repeats: str, leaves_out: bool
) -> None:
    folder = watched_bundle(tmp_path, dataset={"kind": "tiny", "items": 300, "repeats": repeats})
    query = QUERIES[0]
    with client_of(folder) as client:
        usual = client.search(query, k=300)
        assert ids(usual) == ids(client.search(query, k=300, exclude_history=leaves_out))
        assert ids(client.search_batch([query], k=300)[0]) == ids(usual)
        assert [ids(each) for each in client.search_stream([query], k=300)] == [ids(usual)]
        left, full = (client.search(query, 300, exclude_history=each) for each in (True, False))

        async def by_asyncio() -> list[Answer]:
            async with AsyncRetrievalClient(client.address) as other:
                return [await other.search(query, 300), *await other.search_batch([query], 300)]

        assert [ids(each) for each in asyncio.run(by_asyncio())] == [ids(usual)] * 2
    assert sorted({*ids(full)} - {*ids(left)}) == [*query.history]
    assert len(full.hits) == 300


@pytest.mark.parametrize("exclude_history", [False, True])
def test_a_batch_and_a_stream_answer_as_one_by_one(client: RetrievalClient, exclude_history: bool) -> None:
    alone = [
        client.search(query, 7, exclude=["item-063"], exclude_history=exclude_history) for query in QUERIES
    ]
    batch = client.search_batch(QUERIES, 7, exclude=["item-063"], exclude_history=exclude_history)
    stream = [*client.search_stream(QUERIES, 7, exclude=["item-063"], exclude_history=exclude_history)]
    for found in (batch, stream):
        assert differences(alone, found) == []
        assert [(each.basis, each.unknown_history) for each in found] == [
            (each.basis, each.unknown_history) for each in alone
        ]
    assert [each.basis for each in alone[:4]] == ["query", "query", "context", "popular"]


def test_a_sigmoid_is_shown_of_queries_and_not_of_items(tmp_path: Path, client: RetrievalClient) -> None:
    folder = watched_bundle(tmp_path, score=Score("sigmoid", bias=-1.5))
    with client_of(folder) as sigmoid:
        bare, shown = client.search_batch(QUERIES, k=9), sigmoid.search_batch(QUERIES, k=9)
    for query, before, after in zip(QUERIES, bare, shown, strict=True):
        assert ids(after) == ids(before)
        scores = np.array([hit.score for hit in before.hits])
        if query.item_id is None and before.basis is not Basis.POPULAR:
            scores = 1 / (1 + np.exp(1.5 - scores))
        np.testing.assert_allclose([hit.score for hit in after.hits], scores, atol=1e-6)


def test_a_text_is_not_required_beside_a_history(tmp_path: Path) -> None:
    features: dict[str, FeatureSpec] = {"text": TEXT, "history": HISTORY}
    retriever = Retriever.load(watched_bundle(tmp_path, features=features, examples=()))
    queries = [Query("bake"), Query(history=("item-001",)), Query("bake", ("item-001",)), Query(), Query("")]
    answers = retriever.search(queries, k=3)
    assert [answer.basis for answer in answers] == ["context", "query", "query", "popular", "popular"]
    text, history, both = retriever.encode(queries[:3]).vectors
    np.testing.assert_allclose(text + history, both, atol=1e-5)


def test_any_strings_may_be_items_of_a_history(client: RetrievalClient) -> None:
    assert client.search(Query(history=("", "\0", "日本", "x" * 10_000))).unknown_history == 4
