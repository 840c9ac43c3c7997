"""`Score` gives the scores of given items exactly, as searches show them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.helpers.serving.loopback import client_of, client_on, stub_of
from tests.helpers.tiny import item_names, tiny_bundle
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput, Overloaded
from twinspire.serving.client import Query, RetrievalClient
from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.retrieval.answer import Basis, FusionMode
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access
from twinspire.serving.wire.converters import RequestLimits

TEXTS = (item_names(300)[7], item_names(300)[40])


@pytest.fixture(scope="module")
def client(plain: Path) -> Iterator[RetrievalClient]:
    with client_on(Retriever.load(plain), RequestLimits(max_k=300, max_hits=600)) as client:
        yield client


def test_scores_are_those_of_a_search(client: RetrievalClient) -> None:
    found = client.search(TEXTS[0], k=50)
    ids = [hit.id for hit in reversed(found.hits)]
    scores = client.score(TEXTS[0], ids)
    assert [item_id for item_id, _ in scores.items] == ids
    expected = [hit.score for hit in reversed(found.hits)]
    assert np.allclose(np.array([score for _, score in scores.items], np.float64), expected, atol=1e-6)
    assert np.ptp(expected) > 0.1
    assert (scores.kind, scores.basis) == ("cosine", Basis.QUERY)
    assert scores.bundle_version == found.bundle_version


def test_each_query_of_a_batch_has_its_own_items(client: RetrievalClient) -> None:
    pairs = [(TEXTS[0], ["item-001", "item-002", "item-001"]), (TEXTS[1], ["item-003"])]
    both = client.score_batch(pairs)
    for pair, each in zip(pairs, both, strict=True):
        alone = client.score(*pair).items
        assert [name for name, _ in each.items] == [name for name, _ in alone]
        assert [score for _, score in each.items] == pytest.approx([score for _, score in alone], abs=1e-6)
    assert both[0].items[0] == both[0].items[2]


def test_an_unknown_item_has_no_score_and_the_others_have(client: RetrievalClient) -> None:
    items = dict(client.score(TEXTS[0], ["item-001", "nowhere", "item-002"]).items)
    assert items["nowhere"] is None
    assert items["item-001"] is not None and items["item-002"] is not None
    assert client.score(TEXTS[0], ["nowhere"]).items == (("nowhere", None),)


def test_scores_of_a_hybrid_bundle_are_those_of_the_towers(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, is_hybrid=True)
    with client_of(folder) as client:
        found = client.search(TEXTS[0], k=20, fusion=FusionMode.HYBRID)
        scores = client.score(TEXTS[0], [hit.id for hit in found.hits])
    assert found.fusion is FusionMode.HYBRID
    dense = [hit.dense for hit in found.hits]
    assert [score for _, score in scores.items] == pytest.approx(dense, abs=1e-6)
    assert dense != [hit.score for hit in found.hits]


def test_a_text_of_which_nothing_is_known_has_the_scores_of_an_empty_one(tmp_path: Path) -> None:
    """The tower has weights for foreign letters, which it has learned of other texts."""
    folder = tiny_bundle(tmp_path, query_tower=TinyTower(bias=True), letters="abcdefghijklmnopqrstuvwxyz")
    ids = ["item-001", "item-002", "item-003"]
    with client_of(folder) as client:
        blank, foreign, known = client.score_batch([("", ids), ("жук", ids), (TEXTS[0], ids)])
        alone = client.score("жук", ids)
    assert [each.basis for each in (blank, foreign, known)] == [Basis.POPULAR, Basis.POPULAR, Basis.QUERY]
    assert foreign.items == blank.items == alone.items
    assert known.items != blank.items
    assert any(score for _, score in blank.items)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([], "queries: expected 1 to 256 queries, got 0"),
        ([("a", [])], r"queries\[0\].item_ids: expected at least one"),
        ([("a", ["x"]), (Query(item_id="item-001"), ["x"])], r"queries\[1\].query.item_id: expected a text"),
        ([("a", ["x"] * 400), ("a", ["x"] * 201)], "queries: expected at most 600 items in all, got 601"),
        (
            [("a", ["x"]), ("a", ["x", "x" * 10_001])],
            r"queries\[1\].item_ids: expected at most 10000 code points in each of the items, got 10001",
        ),
        ([(Query("a", features={"colour": "red"}), ["x"])], r"queries\[0\].query.features.colour: unknown"),
    ],
)
def test_a_bad_request_is_refused_by_field(client: RetrievalClient, pairs: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        client.score_batch(pairs)


def test_a_missing_query_is_refused(client: RetrievalClient) -> None:
    with (
        stub_of(client.address) as stub,
        pytest.raises(grpc.RpcError, match=r"queries\[0\].query: required, but missing"),
    ):
        stub.Score(wire.ScoreRequest(queries=[{"item_ids": ["x"]}]), timeout=5)


def test_the_items_are_charged(plain: Path) -> None:
    access = Access(rate=RateLimit(per_second=1e-6, burst=12))
    with client_on(Retriever.load(plain), access=access, retries=False) as client:
        client.score("a", ["x"] * 200)  # 1 token, and 10 for the items
        with pytest.raises(Overloaded, match="too many requests"):
            client.score("a", ["x"] * 200)
