"""An expression finds what columns in this process find, whatever the strings are."""

import math
import secrets
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from tests.helpers.vector_databases import SERVERS, Engine
from twinspire.protos.filters import build_columns, column_values
from twinspire.protos.vector_databases.database import collection_name
from twinspire.protos.vector_databases.items import CollectionItems
from twinspire.serving.filters.columns import FilterColumns
from twinspire.serving.filters.expression import Filter, where
from twinspire.serving.filters.kinds import Time
from twinspire.serving.segments.remote import RemoteCollection

KINDS: dict[str, Any] = {
    'brand" or 1 == 1': "string", "tags": "strings", "price": "number", "sale": "boolean", "day": "time"
}  # fmt: skip
BRAND = 'brand" or 1 == 1'
HOSTILE = [
    "plain", 'quo"te', "back\\slash", "single'quote", "new\nline", "\ttab\r", "✓ é 漢", "😀",
    '" or 1 == 1 or f0 == "', '\\" or true or "', "%", "_", "\\\\", "\\n", "\\u0041", "{x}", "]",
    "id in [1, 2]", "\x7f",
]  # fmt: skip
START = datetime(2026, 1, 1, tzinfo=UTC)


def items() -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    found = []
    for n in range(200):
        every = {
            BRAND: HOSTILE[n % len(HOSTILE)],
            "tags": [*{HOSTILE[n % len(HOSTILE)], HOSTILE[n * 7 % len(HOSTILE)]}],
            "price": float(n % 40) / 4 - 3,
            "sale": n % 2 == 0,
            "day": START + timedelta(days=n % 30, microseconds=n % 3),
        }
        found.append({name: value for name, value in every.items() if rng.random() < 0.8})
    return found


ITEMS = items()
COLUMNS = FilterColumns.from_values(KINDS, ITEMS)
FILTERS: list[Filter] = [
    *[where[BRAND] == text for text in HOSTILE],
    *[where.tags == text for text in HOSTILE],
    where[BRAND].is_in(HOSTILE[:7]),
    where.tags.is_in(HOSTILE[5:]),
    where[BRAND].is_in([]),
    where[BRAND] == "",
    ~(where[BRAND] == HOSTILE[1]),
    ~where.tags.is_in(HOSTILE[:2]),
    where.price < 1.25,
    where.price.between(-1, 0.25),
    ~(where.price >= 0),
    where.price == -3,
    where.price > 1e22,
    where.price.is_absent(),
    ~where.price.is_present(),
    where.sale == True,  # noqa: E712
    where.sale.is_in([True, False]),
    ~(where.sale == False),  # noqa: E712
    where.day >= START + timedelta(days=10),
    where.day == START + timedelta(microseconds=0),
    where.day == Time(Time.of(START).nanoseconds + 1),
    where.day > Time(Time.of(START).nanoseconds + 1),
    (where.price < 2) & (where.sale == True) | ~(where[BRAND] == HOSTILE[2]),  # noqa: E712
    ~((where.price < 2) & where.tags.is_in(HOSTILE[:9])),
    # What no item can have, and what each number is or is not.
    where[BRAND] == "nul\x00",
    where.tags.is_in(["plain", "bell\x07"]),
    ~(where[BRAND] == "lone \ud800"),
    where[BRAND] == "x" * 65_536,
    where.price < math.inf,
    where.price <= -math.inf,
    ~(where.price >= -math.inf),
    ~(where.price > math.inf),
    where.price == math.inf,
    # As many conditions and values as a request may have, and about as long.
    where[BRAND].is_in([*HOSTILE[:3], *[f"{n:0200}" for n in range(1000)]]),
]


@pytest.mark.parametrize("engine", SERVERS, indirect=True)
def test_an_expression_finds_what_the_columns_find(engine: Engine) -> None:
    built = sorted(build_columns(KINDS, ITEMS).items())
    values = [column_values(column, len(ITEMS)) for _, column in built]
    ids = [str(n) for n in range(len(ITEMS))]
    manifest = tiny_manifest(len(ITEMS), TinyTower(), bundle_version=secrets.token_hex(32))
    manifest = replace(manifest, index=engine.index(), filters=KINDS)
    name, wrong = collection_name(manifest.bundle_version), []
    with closing(engine.connect()) as database:
        vectors, kinds = np.eye(len(ITEMS), 8, dtype=np.float32), [KINDS[name] for name, _ in built]
        held = CollectionItems(database.limits, vectors, kinds, ids, {}, values)
        database.create(name, held, manifest.index, manifest.bundle_version)
        collection = RemoteCollection(manifest)
        for each in FILTERS:
            expression = collection.expression(each)
            assert BRAND not in expression
            expected = [*COLUMNS.evaluate(each)]
            hits = (
                collection.search(vectors[:1], len(ITEMS), expression, is_exact=True)[0] if expected else []
            )
            rows = sorted(int(item.item_id) for item, _ in hits)
            if rows != expected or collection.count(expression) != len(expected):
                wrong.append((each, expression, rows, expected))
        database.drop(name)
    assert wrong == []
