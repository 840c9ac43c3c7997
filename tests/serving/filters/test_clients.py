"""Clients send filters, as trees or texts, and pay for the work of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.loopback import client_on
from twinspire.protos.errors import InvalidInput, Overloaded
from twinspire.serving.__main__ import main
from twinspire.serving.client import AsyncRetrievalClient, RetrievalClient, where
from twinspire.serving.filters.columns import FilterColumns
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.retrieval.answer import Answer
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access

NODE = (where.price < 20) | (where.section == "section 1")
Search = Callable[[str, Filter | str | None], list[Answer]]


def run(address: str, use: Callable[[AsyncRetrievalClient], Awaitable[list[Answer]]]) -> list[Answer]:
    async def session() -> list[Answer]:
        async with AsyncRetrievalClient(address) as client:
            return await use(client)

    return asyncio.run(session())


def search(address: str, filter: Filter | str | None) -> list[Answer]:
    with RetrievalClient(address) as client:
        return [client.search("bavuti", filter=filter)]


def async_search_batch(address: str, filter: Filter | str | None) -> list[Answer]:
    return run(address, lambda client: client.search_batch(["bavuti", "kelimo"], filter=filter))


def async_search_stream(address: str, filter: Filter | str | None) -> list[Answer]:
    async def use(client: AsyncRetrievalClient) -> list[Answer]:
        return [each async for each in client.search_stream(["bavuti", "kelimo"], filter=filter)]

    return run(address, use)


METHODS: tuple[Search, ...] = (search, async_search_batch, async_search_stream)


def test_a_filter_is_evaluated_after_the_rate_limit(
    filtered_retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[Filter] = []
    evaluate = FilterColumns.evaluate

    def noted(columns: FilterColumns, expression: Filter, *work: Any) -> Any:
        evaluated.append(expression)
        return evaluate(columns, expression, *work)

    monkeypatch.setattr(FilterColumns, "evaluate", noted)
    access = Access(rate=RateLimit(per_second=0.001, burst=3))
    with client_on(filtered_retriever, access=access, retries=False) as client:
        client.wait_ready()
        nodes = [where.price < 0.125 + n for n in range(4)]
        assert client.search("bavuti", k=1, filter=nodes[0]).plan in (Plan.EXACT, Plan.EMPTY)
        with pytest.raises(InvalidInput):  # costs a token, too
            client.search("bavuti", k=1, filter=where.nothing < 3)
        with pytest.raises(Overloaded):
            client.search_batch(["bavuti", "kelimo"], k=1, filter=nodes[1])
        client.search(Query("bavuti"), k=1)
        with pytest.raises(Overloaded):
            client.search("bavuti", k=1, filter=nodes[2])
    assert evaluated == [nodes[0], where.nothing < 3]


def test_a_client_pays_for_the_work_of_its_filters(filtered_retriever: Retriever) -> None:
    charged: list[tuple[str, float]] = []

    class Counting(RateLimit):
        def admit(self, client: str, cost: int = 1) -> None:
            charged.append(("admitted", cost))
            super().admit(client, cost)

        def charge(self, client: str, cost: float) -> None:
            charged.append(("charged", cost))
            super().charge(client, cost)

    access = Access(rate=Counting(per_second=1e6, burst=1000))
    with client_on(filtered_retriever, access=access) as client:
        client.wait_ready()
        many = where.price.is_in([0.0625 + n for n in range(200)])  # 1,600 steps, in a token 20 of them
        client.search("bavuti", k=1, filter=many)
        client.search("bavuti", k=1, filter=many)  # it is kept
        with pytest.raises(InvalidInput, match=r"all\[1\].nothing"):  # found after the other condition
            client.search(
                "bavuti",
                k=1,
                filter=where.price.is_in([n + 0.125 for n in range(200)]) & (where.nothing == 1),
            )
    assert charged == [("admitted", 1), ("charged", 80), ("admitted", 1), ("admitted", 1), ("charged", 80)]


def test_a_text_and_a_tree_ask_the_same(
    filtered_client: RetrievalClient, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "price < 20 or section = 'section 1'"
    address = filtered_client.address
    for ask in METHODS:
        by_tree, by_text = ask(address, NODE), ask(address, text)
        assert {each.plan for each in by_text} == {Plan.EXACT}
        assert differences(by_tree, by_text) == []
    command = ["search", "bavuti", "--json", "--address", address, "--filter"]
    assert main([*command, text]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    scores = [hit.score for hit in filtered_client.search("bavuti", filter=NODE).hits]
    np.testing.assert_allclose([hit["score"] for hit in hits], scores, 1e-5)
    assert main([*command, "price <"]) == 1
    assert "error: filter: character 8: expected a string in quotes" in capsys.readouterr().err
