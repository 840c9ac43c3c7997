"""Queries of several vectors: one list of distinct items, each with the score of its nearest vector."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.loopback import client_on
from tests.helpers.tiny import FILTERS, INNER_PRODUCT, filter_values, item_ids, tiny_bundle
from tests.helpers.tiny_towers import DIMENSION, HISTORY, TinyTower
from tests.serving.live.test_live_server import Host
from twinspire.protos.bundle import VECTORS
from twinspire.protos.errors import BundleDamaged, Overloaded
from twinspire.serving.benchmark import bundle_benchmark
from twinspire.serving.benchmark.filter_measurement import buckets, measure_quality
from twinspire.serving.client import RetrievalClient
from twinspire.serving.filters.expression import Filter, where
from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.retrieval.answer import Answer, Basis
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access

K = 3
IDS = item_ids(300)
QUERIES = [
    Query(history=("item-001", "item-002", "item-003")),
    Query(history=("item-201", "item-012")),
    Query(history=("item-099", "item-045", "item-177", "item-223", "item-008")),
]
EXAMPLES: tuple[dict[str, Any], ...] = tuple({"history": [*each.history]} for each in QUERIES)
Scores = Mapping[str, float]


def interests_bundle(parent: Path, interests: int = K, **manifest: Any) -> Path:
    tower = TinyTower({"history": HISTORY}, unit=False, interests=K)
    fields = {"score": INNER_PRODUCT, "examples": EXAMPLES, "interests": interests, **manifest}
    return tiny_bundle(parent, 300, tower, filters=FILTERS, **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interests_bundle(tmp_path_factory.mktemp("interests"))


@pytest.fixture(scope="module")
def retriever(folder: Path) -> Retriever:
    return Retriever.load(folder)


@pytest.fixture(scope="module")
def expected(folder: Path, retriever: Retriever) -> Sequence[Scores]:
    """Of each query the score of every item, one product at a time."""
    items = np.load(folder / VECTORS)
    vectors = retriever.encode(QUERIES).vectors.reshape(len(QUERIES), K, DIMENSION)
    return [
        {name: max(float(item @ each) for each in query) for name, item in zip(IDS, items, strict=True)}
        for query in vectors
    ]


def check(answer: Answer, scores: Scores, k: int) -> None:
    """The answer has the `k` best of the items, with their scores."""
    best = sorted(scores.values(), reverse=True)[:k]
    assert [hit.score for hit in answer.hits] == pytest.approx(best, abs=1e-5)
    assert [hit.score for hit in answer.hits] == pytest.approx(
        [scores[hit.id] for hit in answer.hits], abs=1e-5
    )
    assert len({hit.id for hit in answer.hits}) == len(answer.hits) == min(k, len(scores))


@pytest.mark.parametrize("k", [1, 7, 40, 300, 400])
def test_an_answer_has_k_distinct_items_by_their_largest_scores(
    k: int, retriever: Retriever, expected: Sequence[Scores]
) -> None:
    for answer, scores in zip(retriever.search(QUERIES, k), expected, strict=True):
        check(answer, scores, k)
        assert answer.basis is Basis.QUERY
    for query, scores in zip(QUERIES, expected, strict=True):
        check(retriever.search([query], k)[0], scores, k)


def test_a_batch_of_many_lengths_is_answered_in_its_order(
    retriever: Retriever, expected: Sequence[Scores]
) -> None:
    """So many that the tower encodes them in parts; items as queries stand between them."""
    queries = [*QUERIES, Query(item_id="item-005")] * 60
    answers = retriever.search(queries, 6)
    for n, answer in enumerate(answers):
        if n % 4 < 3:
            check(answer, expected[n % 4], 6)
        else:
            assert differences([answers[3]], [answer]) == []


@pytest.mark.parametrize("k", [5, 60])
def test_filters_and_excluded_items_are_those_of_all_vectors(
    k: int, retriever: Retriever, expected: Sequence[Scores]
) -> None:
    values = filter_values(300)
    conditions: dict[str, tuple[Filter, Callable[[dict[str, Any]], bool]]] = {
        "many": (where.price < 40, lambda each: each.get("price", 99) < 40),
        "few": (where.price < 2, lambda each: each.get("price", 99) < 2),
        "none": (where.price < 0, lambda each: False),
    }
    for condition, passes in conditions.values():
        passing = {name for name, each in zip(IDS, values, strict=True) if passes(each)}
        gone = {"item-050", "item-117"}
        answers = retriever.search(QUERIES, k, [*gone], exclude_history=True, filter=condition)
        for answer, query, scores in zip(answers, QUERIES, expected, strict=True):
            left = {name: scores[name] for name in passing - gone - {*query.history}}
            check(answer, left, k)


def test_an_item_as_a_query_and_a_query_of_nothing_are_answered_once(
    retriever: Retriever, folder: Path
) -> None:
    items = np.load(folder / VECTORS)
    alike, nothing, history = retriever.search([Query(item_id="item-005"), Query(), QUERIES[0]], 8)
    scores = dict(zip(IDS, (items @ items[5]).tolist(), strict=True))
    del scores["item-005"]
    check(alike, scores, 8)
    assert (nothing.basis, len(nothing.hits)) == (Basis.POPULAR, 8)
    assert differences(retriever.search(QUERIES[:1], 8), [history]) == []


def test_the_rate_limit_charges_each_vector_as_a_search(retriever: Retriever) -> None:
    access = Access(rate=RateLimit(per_second=1e-6, burst=2 * K))
    with client_on(retriever, access=access, retries=False) as client:
        client.search_batch(QUERIES[:1] * 2, k=1)
        with pytest.raises(Overloaded, match="too many requests"):
            client.search(QUERIES[0], k=1)


def test_a_service_answers_with_live_items(folder: Path, tmp_path: Path, expected: Sequence[Scores]) -> None:
    host = Host(folder, tmp_path)
    with host.server, RetrievalClient(host.server.address) as client:
        client.wait_ready()
        for answer, scores in zip(client.search_batch(QUERIES, k=9), expected, strict=True):
            check(answer, scores, 9)
        vectors = np.asarray(client.encode(QUERIES))
        assert vectors.shape == (len(QUERIES), K * DIMENSION)
        text = "zuzuzu xexexe vuvu"
        host.feed.put("new", {"text": text, "price": 1.0}, {"name": text})
        sequence = host.write("item-050")
        assert client.search(QUERIES[0], min_sequence=sequence).sequence == sequence
        served = host.bundle.retriever
        own = served.items.vectors([served.items.rows(["new"]).pop()])[0]
        for query, vector, scores in zip(QUERIES, vectors, expected, strict=True):
            now = {**scores, "new": max(float(own @ each) for each in vector.reshape(K, DIMENSION))}
            del now["item-050"]
            check(client.search(query, k=9, min_sequence=sequence), now, 9)
            check(client.search(query, k=300, min_sequence=sequence), now, 300)
            scored = client.score(query, ["new", "item-050", "item-001"]).items
            assert scored[1][1] is None
            assert [scored[0][1], scored[2][1]] == pytest.approx([now["new"], now["item-001"]], abs=1e-5)
            passing = {name: now[name] for name in ("new", *few_dollars()) if name in now}
            check(client.search(query, k=9, filter=where.price < 2), passing, 9)


def few_dollars() -> list[str]:
    return [name for name, each in zip(IDS, filter_values(300), strict=True) if each.get("price", 99) < 2]


def test_the_measurements_of_gates_know_the_largest_score(folder: Path, retriever: Retriever) -> None:
    assert bundle_benchmark.recall(retriever, retriever.built, 10) == [1.0] * len(EXAMPLES)
    made = [*buckets(retriever, retriever.built, QUERIES)]
    found = [measure_quality(retriever, retriever.built, bucket, 10) for bucket in made]
    assert {min(each["recall"]) for each in found} == {1.0}
    assert not any(each["incomplete"] or each["wrong"] for each in found)


def test_a_tower_of_another_number_of_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match="manifest's dimension is 32, and a query has 2 vectors"):
        Retriever.load(interests_bundle(tmp_path, interests=2))
