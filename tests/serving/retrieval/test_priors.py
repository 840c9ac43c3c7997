"""Items that were clicked after the same query in training go up after that query, and after no other."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.lexical import HYBRID, postings_of_texts
from tests.helpers.serving.live import LiveWorld
from tests.helpers.serving.loopback import client_on
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.protos.hybrid.fusion import Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.answer_files import answer_document
from twinspire.serving.retrieval.answer import Answer, FusionMode, Timing
from twinspire.serving.retrieval.hybrid_search import HybridSearch
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.loaded_bundle import LoadedBundle

ITEMS = 300
NAMES = item_names(ITEMS)
QUERY, SPELLED = f"{NAMES[5].split()[0]} zzzz", f"  {NAMES[5].split()[0].upper()}\tZzzz"
ROWS = {250: 0.6, 40: 0.3}  # rows of items that were clicked after the query, and their priors
PRIORS = {QUERY: ROWS, "zzzz": {7: 0.5}}
WITH_PRIORS = replace(HYBRID, prior_weight=0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("priors")
    return tiny_bundle(parent, ITEMS, filters=FILTERS, is_hybrid=True, hybrid=WITH_PRIORS, priors=PRIORS)


@pytest.fixture(scope="module")
def found(folder: Path) -> Retriever:
    return Retriever.load(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """The same bundle without priors."""
    return Retriever.load(
        tiny_bundle(tmp_path_factory.mktemp("plain"), ITEMS, filters=FILTERS, is_hybrid=True)
    )


@pytest.fixture(scope="module")
def priors_client(found: Retriever) -> Iterator[RetrievalClient]:
    with client_on(found) as client:
        yield client


def one(retriever: Retriever, text: str, k: int = 5, fusion: FusionMode = FusionMode.DEFAULT) -> Answer:
    (answer,) = retriever.search([Query(text)], k, fusion=fusion)
    return answer


def check_sums(answer: Answer, priors: Mapping[str, float]) -> None:
    """Each score is the sum of its parts, and the priors are these."""
    for hit in answer.hits:
        assert hit.dense is not None and hit.lexical is not None
        assert hit.prior == pytest.approx(priors.get(hit.id, 0.0), abs=1e-6)
        whole = (1 - HYBRID.weight) * hit.dense + HYBRID.weight * hit.lexical + 0.8 * (hit.prior or 0)
        assert hit.score == pytest.approx(whole, abs=3e-6)


def test_clicked_items_go_up_after_the_same_query(found: Retriever, plain: Retriever) -> None:
    before = [hit.id for hit in one(plain, QUERY).hits]
    assert not {"item-250", "item-040"} & {*before}
    for text in (QUERY, SPELLED, f"Zzzz, {NAMES[5].split()[0]}!"):
        answer = one(found, text)
        assert [hit.id for hit in answer.hits[:2]] == ["item-250", "item-040"]
        check_sums(answer, {"item-250": 0.6, "item-040": 0.3})


def test_a_query_of_unknown_words_has_its_clicks(found: Retriever, plain: Retriever) -> None:
    assert one(plain, "zzzz").fusion is FusionMode.DENSE
    answer = one(found, "zzzz")
    assert (answer.fusion, answer.hits[0].id) == (FusionMode.HYBRID, "item-007")


def test_the_answer_of_an_unseen_query_stays(found: Retriever, plain: Retriever) -> None:
    for text in (NAMES[5], f"zzzz {QUERY}", "zzz", NAMES[250]):
        hits, expected = one(found, text).hits, one(plain, text).hits
        assert [hit.id for hit in hits] == [hit.id for hit in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=1e-6)
        check_sums(one(found, text), {}) if one(found, text).fusion is FusionMode.HYBRID else None


def test_vectors_and_words_alone_have_no_priors(found: Retriever, plain: Retriever) -> None:
    for fusion in (FusionMode.DENSE, FusionMode.LEXICAL):
        hits = one(found, QUERY, fusion=fusion).hits
        assert {hit.prior for hit in hits} <= {0.0}
        assert [hit.id for hit in hits] == [hit.id for hit in one(plain, QUERY, fusion=fusion).hits]


def test_an_index_without_words_leaves_other_queries_to_the_vectors(found: Retriever, folder: Path) -> None:
    """As export writes it where BM25 does not help."""
    alone = replace(WITH_PRIORS, weight=0.0)
    index = LexicalIndex(postings_of_texts([""] * ITEMS, alone, PRIORS), alone)
    bare = Retriever.load(folder)
    bare.built.fusion = Fusion(index, bare.item_vectors)
    bare.hybrid = HybridSearch(bare.manifest, bare.built.fusion, bare.items)
    assert one(bare, NAMES[5]).fusion is FusionMode.DENSE
    dense = [(hit.id, hit.score) for hit in one(found, NAMES[5], fusion=FusionMode.DENSE).hits]
    assert [(hit.id, hit.score) for hit in one(bare, NAMES[5]).hits] == dense
    answer = one(bare, QUERY)
    assert answer.hits[0].id == "item-250"
    assert answer.hits[0].score == pytest.approx((answer.hits[0].dense or 0) + 0.8 * 0.6, abs=1e-6)
    with pytest.raises(InvalidInput, match="this bundle has none of its items"):
        one(bare, QUERY, fusion=FusionMode.LEXICAL)


def test_clients_get_the_priors(found: Retriever, plain: Retriever, priors_client: RetrievalClient) -> None:
    for text in (QUERY, "zzz"):
        own = one(found, text)
        for answer in (priors_client.search(text, 5), *priors_client.search_batch([text], 5)):
            assert [hit.id for hit in answer.hits] == [hit.id for hit in own.hits]
            assert [hit.prior for hit in answer.hits] == pytest.approx([hit.prior for hit in own.hits])
    assert answer_document(one(found, QUERY))["hits"][0]["prior"] == pytest.approx(0.6)
    assert "prior" not in answer_document(one(plain, QUERY))["hits"][0]


def test_the_bytes_of_an_answer_are_as_many_as_is_said(folder: Path) -> None:
    loaded = LoadedBundle.load(folder)
    retriever = loaded.retriever
    for fusion in FusionMode:
        options = [retriever.search_options(5, fusion=fusion)]
        (result,) = retriever.find(retriever.encode([Query(QUERY)]), options)
        answer = wire.SearchResponse.FromString(loaded.responses.response(result, "v", Timing()))
        assert [hit.prior for hit in answer.hits] == pytest.approx([*result.prior])
        assert loaded.responses.size(result) == sum(hit.ByteSize() + 2 for hit in answer.hits)
    assert not loaded.responses.packed.hit(0).HasField("prior")


def test_a_live_item_keeps_its_prior_and_a_deleted_one_has_none(folder: Path, tmp_path: Path) -> None:
    world = LiveWorld(folder, tmp_path)
    world.put("item-250", NAMES[100])
    world.put("item-250", f"{NAMES[101]} {NAMES[102]}")
    world.put("new", NAMES[250])
    assert not world.sync()
    live = world.live.retriever
    answer = one(live, QUERY)
    assert [hit.id for hit in answer.hits[:2]] == ["item-250", "item-040"]
    assert answer.hits[0].dense == pytest.approx(
        float(world.truth["item-250"] @ live.encode([Query(QUERY)]).vectors[0]), abs=1e-6
    )
    check_sums(answer, {"item-250": 0.6, "item-040": 0.3})
    check_sums(one(live, NAMES[250], k=ITEMS), {})
    lexical = one(live, QUERY, k=ITEMS, fusion=FusionMode.LEXICAL)
    assert {hit.prior for hit in lexical.hits} == {0.0}
    world.delete("item-250")
    world.delete("item-040")
    world.sync()
    check_sums(one(live, QUERY, k=ITEMS), {})
    world.put("item-040", NAMES[3])
    world.sync()
    check_sums(one(live, QUERY, k=ITEMS), {"item-040": 0.3})
