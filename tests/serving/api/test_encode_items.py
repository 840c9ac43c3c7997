"""`Encode` gives the vectors of items that the catalogue need not hold, over a real socket."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.helpers import tiny
from tests.helpers.altered import altered
from tests.helpers.serving.guarded import code_of
from tests.helpers.serving.loopback import client_on, stub_of
from tests.helpers.tiny_towers import FULL, PLAIN, VOCABULARIES, TinyTower, write_tower
from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput, Overloaded
from twinspire.protos.features import Schema
from twinspire.serving.client import Query, RetrievalClient
from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.retrieval.encoder import Encoder
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.security.auth import Access
from twinspire.serving.wire.converters import RequestLimits

LIMITS = RequestLimits(max_batch=8, max_values=5, max_text_length=100)
TEXTS = ["bake limo nupy", "?", "日本 ß", "a" * 100]
ITEMS = [{"text": each} for each in TEXTS]
SHORT = {"text": "a"}


@pytest.fixture(scope="module")
def client(plain: Path) -> Iterator[RetrievalClient]:
    with client_on(LoadedBundle.load(plain, item_tower=True), LIMITS) as client:
        yield client


@pytest.fixture(scope="module")
def full_items(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose items have a feature of every kind."""
    known = {key.replace("query.", "item."): rows for key, rows in VOCABULARIES.items()}
    return altered(
        plain,
        tmp_path_factory.mktemp("full_items"),
        lambda draft: write_tower(draft / bundle.ITEM_TOWER, TinyTower(FULL)),
        schema=Schema(dict(PLAIN), dict(FULL), known),
    )


def test_items_have_the_vectors_of_the_item_tower(client: RetrievalClient, plain: Path) -> None:
    vectors = client.encode_items(ITEMS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, tiny.encode(plain / bundle.ITEM_TOWER, TEXTS), atol=1e-6)


def test_every_kind_of_feature_reaches_the_item_tower(full_items: Path) -> None:
    items: list[dict[str, Any]] = [
        {"text": "bake", "country": "fr", "tags": ["new", "old"], "age": 41.5},
        {"text": "limo", "tags": "old"},
        {"text": "nupy", "country": "nowhere", "age": -1e30},
    ]
    loaded = LoadedBundle.load(full_items, item_tower=True)
    encoder = Encoder(full_items, loaded.manifest, side="item")
    rows = [{name: item.get(name) for name in FULL} for item in items]
    rows[1]["tags"] = ["old"]  # one text is a list of it, as in writes
    expected = np.concatenate([encoder.vectors(encoder.arrays([row])) for row in rows])
    with client_on(loaded) as client:
        np.testing.assert_allclose(client.encode_items(items), expected, atol=1e-5)
        with pytest.raises(InvalidInput, match=r"items\[1\]\.features\.age: expected a number that fits"):
            client.encode_items([items[0], {"text": "limo", "age": 1e300}])
        with pytest.raises(InvalidInput, match=r"items\[0\]\.features\.age: expected a number, got NaN"):
            client.encode_items([{"text": "limo", "age": float("nan")}])


@pytest.mark.parametrize(
    ("items", "error"),
    [
        ([SHORT] * 9, "items: expected 1 to 8 items, got 9"),
        ([SHORT, {}], "items[1].features.text: required by this bundle's item tower, but missing"),
        ([{**SHORT, "age": 1}], "items[0].features.age: unknown feature; the item tower takes text (text)"),
        ([SHORT, {"text": " "}], "items[1].features.text: expected a text, got a blank one"),
        ([], "items: expected at least one, got none"),
        (["a"], "items[0]: expected features by name, got 'a'"),
        ([{"text": 1.0}], "items[0].features.text: expected a string"),
        ([{"text": "a" * 101}], "items[0].features.text: expected at most 100 code points, got 101"),
        ([SHORT, {"text": "\ud800"}], "items[1]: expected Unicode, got a lone surrogate"),
    ],
)
def test_items_that_do_not_fit_are_refused_by_name(client: RetrievalClient, items: Any, error: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.encode_items(items)
    assert str(caught.value).startswith(error)


def test_a_request_has_either_queries_or_items(client: RetrievalClient) -> None:
    request = wire.EncodeRequest(queries=[{"text": "a"}], items=[{"features": {"text": {"text": "a"}}}])
    valueless = wire.EncodeRequest(items=[{"features": {"text": {}}}])
    with stub_of(client.address) as stub:
        for wrong, error in (
            (request, "items: expected either queries or items, got both"),
            (valueless, "items[0].features.text: "),
            (wire.EncodeRequest(), "queries: expected 1 to 8 queries, got 0"),
        ):
            code, said = code_of(stub.Encode, wrong)
            assert code is grpc.StatusCode.INVALID_ARGUMENT and said.startswith(error)


def test_a_service_without_its_item_tower_says_so(plain: Path) -> None:
    with (
        client_on(LoadedBundle.load(plain)) as client,
        pytest.raises(InvalidInput, match=r"items: this service does not offer the item tower \(--item-tow"),
    ):
        client.encode_items([SHORT])


def test_an_item_costs_as_much_as_a_query(plain: Path) -> None:
    loaded = LoadedBundle.load(plain, item_tower=True)
    access = Access(rate=RateLimit(per_second=1e-6, burst=4))
    with client_on(loaded, access=access, retries=False) as client:
        client.encode([Query("a")])
        client.encode_items([SHORT] * 3)
        with pytest.raises(Overloaded):
            client.encode_items([SHORT])


def test_vectors_that_are_too_large_for_an_answer_are_refused(plain: Path) -> None:
    loaded = LoadedBundle.load(plain, item_tower=True)
    with client_on(loaded, RequestLimits(max_answer_bytes=400)) as client:
        assert client.encode_items([SHORT] * 2).shape == (2, 32)
        with pytest.raises(InvalidInput, match=r"items: expected an answer of at most 400 bytes"):
            client.encode_items([SHORT] * 3)
