"""Queries with a text, answered by words and vectors together."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.lexical import HYBRID, lexical_score, weights_of_texts
from tests.helpers.scores import difference
from tests.helpers.serving.loopback import client_on
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import RetrievalClient, where
from twinspire.serving.retrieval.answer import Answer, FusionMode
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

ITEMS = 300
NAMES = item_names(ITEMS)
Scored = tuple[str, float, float, float]  # id, score, dense and lexical part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("hybrid"), ITEMS, filters=FILTERS, is_hybrid=True)


@pytest.fixture(scope="module")
def hybrid(folder: Path) -> Retriever:
    return Retriever.load(folder)


@pytest.fixture(scope="module")
def hybrid_client(hybrid: Retriever) -> Iterator[RetrievalClient]:
    with client_on(hybrid) as client:
        yield client


def words_of(*rows: int) -> str:
    """The first word of each of some items."""
    return " ".join(NAMES[row].split()[0] for row in rows)


def parts(answer: Answer) -> list[Scored]:
    return [(hit.id, hit.score, hit.dense or 0.0, hit.lexical or 0.0) for hit in answer.hits]


def by_hand(hybrid: Retriever, text: str) -> list[Scored]:
    """All items, best first, by the definition of the score."""
    idf, weights = weights_of_texts(NAMES, HYBRID)
    words = HYBRID.analyzer.tokens(text)
    (rows,), (products,) = hybrid.built.index.exact(hybrid.encode([Query(text)]).vectors, ITEMS)
    dense = np.empty(ITEMS, np.float32)
    dense[rows] = products  # near ties are ordered by their rounding
    lexical = np.array([lexical_score(idf, each, words) for each in weights])
    fused = (1 - HYBRID.weight) * dense + HYBRID.weight * lexical
    order = np.argsort(-np.round(fused, 6), kind="stable")  # of equal ones the lower row
    return [(f"item-{row:03}", fused[row], dense[row], lexical[row]) for row in order.tolist()]


def same(found: list[Scored], expected: list[Scored]) -> bool:
    """Whether two answers are the same, up to rounding, which may swap items with equal scores."""
    parts_of = {name: parts for name, _, *parts in expected}
    return difference([each[:2] for each in expected], [each[:2] for each in found]) == "" and all(
        np.allclose(parts, parts_of[name], atol=3e-6) for name, _, *parts in found if name in parts_of
    )


def test_the_best_items_of_both_sides_are_found(hybrid: Retriever) -> None:
    for rows in ([5], [7, 90], [200, 11, 40]):
        (answer,) = hybrid.search([Query(words_of(*rows))], k=3)
        assert answer.fusion is FusionMode.HYBRID
        assert same(parts(answer), by_hand(hybrid, words_of(*rows))[:3])


def test_words_bring_items_that_the_vectors_do_not_find(hybrid: Retriever) -> None:
    queries = [Query(words_of(row) + " " + NAMES[17]) for row in range(0, ITEMS, 3)]  # the letters of item 17
    brought = 0
    for dense, both in zip(
        hybrid.search(queries, k=HYBRID.dense_candidates, fusion=FusionMode.DENSE),
        hybrid.search(queries, k=HYBRID.dense_candidates),
        strict=True,
    ):
        only = {hit.id for hit in both.hits} - {hit.id for hit in dense.hits}
        assert all(hit.lexical for hit in both.hits if hit.id in only)
        brought += len(only)
    assert brought > 0


def test_a_query_in_a_batch_is_answered_as_alone(hybrid: Retriever) -> None:
    queries = [Query(words_of(n, n + 1)) for n in range(20)]
    queries[4], queries[9] = Query(item_id="item-007"), Query("\U0001f600")
    together = hybrid.search(queries, k=5)
    for query, answer in zip(queries, together, strict=True):
        (alone,) = hybrid.search([query], k=5)
        assert same(parts(answer), parts(alone))
        assert (answer.basis, answer.fusion) == (alone.basis, alone.fusion)


def test_a_query_without_a_known_word_is_dense(hybrid: Retriever) -> None:
    for query in (Query("zzzz"), Query(item_id="item-007")):
        (answer,) = hybrid.search([query], k=5)
        assert answer.fusion is FusionMode.DENSE
        assert len(answer.hits) == 5
        assert [(hit.dense, hit.lexical) for hit in answer.hits] == [(hit.score, 0) for hit in answer.hits]


def test_a_lexical_answer_holds_only_items_with_a_word_of_the_query(hybrid: Retriever) -> None:
    text = words_of(5, 90)
    (answer,) = hybrid.search([Query(text)], k=100, fusion=FusionMode.LEXICAL)
    expected = [each for each in by_hand(hybrid, text) if each[3] > 0]
    assert {hit.id for hit in answer.hits} == {each[0] for each in expected}
    assert [hit.score for hit in answer.hits] == [hit.lexical for hit in answer.hits]
    (nothing,) = hybrid.search([Query("zzzz")], k=5, fusion=FusionMode.LEXICAL)
    assert (nothing.hits, nothing.fusion) == ((), FusionMode.LEXICAL)


def test_filters_and_exclusions_hold_for_the_lexical_side(hybrid: Retriever) -> None:
    passing = where.section == "section 1"
    text = words_of(5, 13, 90, 17)
    mask = hybrid.filters.compile(passing).passing.mask
    expected = [each for each in by_hand(hybrid, text) if mask[int(each[0][-3:])]]
    (answer,) = hybrid.search([Query(text)], k=4, filter=passing)
    assert same(parts(answer), expected[:4])
    first = expected[0][0]
    (without,) = hybrid.search([Query(text)], k=3, exclude=[first], filter=passing)
    assert same(parts(without), expected[1:4])
    (without,) = hybrid.search([Query(text)], k=2, exclude=[by_hand(hybrid, text)[0][0]])
    assert same(parts(without), by_hand(hybrid, text)[1:3])


def test_a_bundle_without_a_lexical_index_can_only_be_dense(retriever: Retriever) -> None:
    (answer,) = retriever.search([Query("bavuti")], k=2, fusion=FusionMode.DENSE)
    assert (answer.fusion, answer.hits[0].lexical) == (FusionMode.DEFAULT, None)
    for fusion in (FusionMode.LEXICAL, FusionMode.HYBRID):
        with pytest.raises(InvalidInput, match="no lexical index") as caught:
            retriever.search([Query("bavuti")], k=2, fusion=fusion)
        assert caught.value.field == "fusion"


@pytest.mark.parametrize("fusion", FusionMode)
def test_clients_get_what_the_retriever_finds(
    hybrid: Retriever, hybrid_client: RetrievalClient, fusion: FusionMode
) -> None:
    texts = [words_of(5, 90), words_of(3), "zzzz"]
    expected = hybrid.search([Query(text) for text in texts], k=5, fusion=fusion)
    single = [hybrid_client.search(text, 5, fusion=fusion) for text in texts]
    batch = hybrid_client.search_batch(texts, 5, fusion=fusion)
    stream = [*hybrid_client.search_stream(texts, 5, fusion=fusion)]
    for found in (single, batch, stream):
        for answer, own in zip(found, expected, strict=True):
            assert same(parts(answer), parts(own))
            assert answer.fusion is own.fusion
            fields = {hit.id: dict(hybrid.items.fields(int(hit.id[-3:]))) for hit in answer.hits}
            assert {hit.id: dict(hit.fields) for hit in answer.hits} == fields


def test_servers_refuse_an_unknown_fusion(hybrid_client: RetrievalClient) -> None:
    request = wire.SearchRequest(query=wire.Query(text="bavuti"), fusion=9)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="FUSION_HYBRID") as caught:
        hybrid_client.call("Search", request)
    assert caught.value.field == "fusion"
