"""Each value of a write is taken, or refused with the name of its field."""

import json
import math
import pickle
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos import retrieval_pb2
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    IdFeature,
    NumberFeature,
    Schema,
    TextFeature,
)
from twinspire.serving.live.store.records import CatalogueBounds, WriteParser

FEATURES: dict[str, FeatureSpec] = {
    "title": TextFeature("text", "title"),
    "price": NumberFeature("number", "price"),
    "section": CategoryFeature("category", "section"),
    "tags": CategoryFeature("category", "tags", multi=True),
    "id": IdFeature("id"),
}
BOUNDS = CatalogueBounds(max_item_bytes=2000, max_batch=5)


def manifest(features: dict[str, FeatureSpec], fields: tuple[str, ...] = ("name", "url")) -> Manifest:
    vocabularies: dict[str, tuple[str, ...]] = {"item.section": ("a",), "item.tags": ("a",), "items": ("x",)}
    schema = Schema({"text": TextFeature("text", "text")}, features, vocabularies)
    return replace(tiny_manifest(20, TinyTower()), schema=schema, display_fields=fields)


FORM = WriteParser([manifest(FEATURES)])


def value(given: object) -> retrieval_pb2.FeatureValue:
    if isinstance(given, str):
        return retrieval_pb2.FeatureValue(text=given)
    if isinstance(given, float | int):
        return retrieval_pb2.FeatureValue(number=given)
    if isinstance(given, list):
        return retrieval_pb2.FeatureValue(strings={"values": given})
    return retrieval_pb2.FeatureValue()


def upsert(
    item_id: str = "x", fields: dict[str, str] | None = None, /, **features: object
) -> wire.UpsertRequest:
    request = wire.UpsertRequest()
    item = request.items.add().item
    item.id = item_id
    for name, each in features.items():
        item.features[name].CopyFrom(value(each))
    item.fields.update(fields or {})
    return request


def test_an_item_with_a_value_of_each_kind_is_taken() -> None:
    request = upsert("ä/1", {"name": "N\n\0"}, title="a\tb\0", price=3, section="s", tags=["a", "b"])
    request.mode = wire.WRITE_UPDATE
    request.items[0].expected_sequence = 2**64 - 1
    found = FORM.upsert(request, BOUNDS)
    (item,) = found.items
    assert (item.item_id, item.deleted, item.expected, found.mode) == ("ä/1", False, 2**64 - 1, 2)
    assert json.loads(item.features) == {"title": "a\tb\0", "price": 3.0, "section": "s", "tags": ["a", "b"]}
    assert json.loads(item.fields) == {"name": "N\n\0"}
    assert pickle.loads(pickle.dumps(found)) == found
    one = FORM.upsert(upsert(title="a", tags="alone"), BOUNDS)  # one of many may come as a text
    assert json.loads(one.items[0].features) == {"tags": ["alone"], "title": "a"}


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (upsert("", title="a"), "items[0].item.id", "expected an id, got a blank text"),
        (upsert("a\nb", title="a"), "items[0].item.id", "expected no control characters, got U+000A"),
        (upsert("ä" * 513, title="a"), "items[0].item.id", "expected at most 1024 bytes in UTF-8, got 1026"),
        (upsert(), "items[0].item.features", "expected at least one; the item tower takes price (number), "),
        (upsert(price=3), "items[0].item.features.title", "required by the bundle's item tower, but missing"),
        (upsert(title=" \n"), "items[0].item.features.title", "expected a text, got a blank one"),
        (upsert(titel="x"), "items[0].item.features.titel", "; did you mean title?"),
        (upsert(id="x"), "items[0].item.features.id", "unknown feature; the item tower takes price (number)"),
        (upsert(title=3), "items[0].item.features.title", "expected a text, got a number"),
        (upsert(title=None), "items[0].item.features.title", "expected a text, a number or strings, got"),
        (upsert(tags=3), "items[0].item.features.tags", "expected strings, got a number"),
        (upsert(price="3"), "items[0].item.features.price", "expected a number, got a text"),
        (upsert(price=math.nan), "items[0].item.features.price", "expected a finite number, got nan"),
        (upsert(price=1e39), "items[0].item.features.price", "expected a number within float32, at most"),
        (upsert("x", {"hue": "red"}, title="a"), "items[0].item.fields.hue", "display fields are name, url"),
        (upsert(title="ä" * 1500), "items[0].item", "expected at most 2000 bytes as JSON, got 3016"),
        (wire.UpsertRequest(), "items", "expected 1 to 5 items, got 0"),
        (wire.UpsertRequest(items=[wire.ItemWrite()]), "items[0].item", "required, but missing"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(request_: wire.UpsertRequest, field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        FORM.upsert(request_, BOUNDS)
    assert caught.value.field == field
    assert reason in caught.value.reason


def test_a_batch_names_the_item_at_fault() -> None:
    request = wire.UpsertRequest()
    for item_id in ("a", "b", "a"):
        request.items.append(upsert(item_id, title="x").items[0])
    with pytest.raises(InvalidInput, match=r"items\[2\]\.item\.id: the same id as items\[0\]\.item\.id"):
        FORM.upsert(request, BOUNDS)
    del request.items[2]
    request.items[1].item.features["price"].text = "cheap"
    with pytest.raises(InvalidInput, match=r"items\[1\]\.item\.features\.price: "):
        FORM.upsert(request, BOUNDS)
    many = wire.UpsertRequest(items=[upsert(str(n), title="x").items[0] for n in range(6)])
    with pytest.raises(InvalidInput, match=r"items: expected 1 to 5 items, got 6"):
        FORM.upsert(many, BOUNDS)
    deletes = wire.DeleteRequest(items=[wire.ItemDelete(id="a"), wire.ItemDelete(id="a")])
    with pytest.raises(InvalidInput, match=r"items\[1\]\.id: the same id as items\[0\]\.id"):
        FORM.delete(deletes, BOUNDS)


def test_request_ids_and_modes_are_checked() -> None:
    for request_id in ("x" * 129, "a\nb"):
        with pytest.raises(InvalidInput, match="request_id: "):
            FORM.upsert(wire.UpsertRequest(items=upsert(title="a").items, request_id=request_id), BOUNDS)
    request = upsert(title="a")
    request.mode = 7  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="mode: expected 0, 1 or 2, got 7"):
        FORM.upsert(request, BOUNDS)


def test_the_digest_of_a_request_is_that_of_its_content() -> None:
    def digest(**features: object) -> str:
        request = upsert(**features)
        request.request_id = "r"
        return FORM.upsert(request, BOUNDS).digest

    assert digest(title="a", price=3) == digest(price=3.0, title="a")
    assert len({digest(title="a"), digest(title="b"), digest(title="a", price=3)}) == 3


def test_the_features_of_a_canary_are_taken_too_and_the_champion_has_the_last_word() -> None:
    champion = manifest({"title": TextFeature("text", "title"), "size": NumberFeature("number", "size")})
    canary = manifest(
        {"text": TextFeature("text", "text"), "size": CategoryFeature("category", "size")}, ("new",)
    )
    form = WriteParser([champion, canary])
    form.upsert(upsert("x", {"new": "1", "name": "2"}, title="a", text="b", size=3), BOUNDS)
    with pytest.raises(InvalidInput, match="size: expected a number"):
        form.upsert(upsert(title="a", text="b", size="large"), BOUNDS)
    form.upsert(upsert(title="a"), BOUNDS)  # the canary's text is not required


texts = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(categories=["Cc", "Zs", "Cf"]), max_size=5),
    st.sampled_from(["", " ", "\0", "\x7f", "x" * 3000, "ä" * 600, "id", "name"]),
)  # fmt: skip
values: st.SearchStrategy[Any] = st.one_of(texts, st.floats(), st.lists(texts, max_size=3), st.none())
features = st.dictionaries(
    st.one_of(st.sampled_from(["price", "section", "tags"]), texts), values, max_size=2
)
fields = st.dictionaries(st.one_of(st.sampled_from(["name", "url"]), texts), texts, max_size=2)


@settings(max_examples=300)
@given(texts, texts, features, fields)
def test_random_writes_are_taken_or_refused_by_name(
    item_id: str, title: str, features: dict[str, Any], fields: dict[str, str]
) -> None:
    request_ = upsert(item_id, fields, **{"title": title, **features})
    try:
        taken = FORM.upsert(request_, BOUNDS)
    except InvalidInput as error:
        root = error.field.split(".")[0].split("[")[0]
        assert root in {field.name for field in request_.DESCRIPTOR.fields}, error.field
        assert error.reason.isprintable()
        return
    (item,) = taken.items
    assert item.item_id == item_id
    assert {*json.loads(item.features, parse_constant=pytest.fail)} == {"title", *features}
    assert json.loads(item.fields) == fields
    assert not any(each in item_id for each in string.whitespace.replace(" ", ""))
    assert pickle.loads(pickle.dumps(taken)) == taken
