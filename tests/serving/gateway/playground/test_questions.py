"""Questions and answers on the page, in a real browser, in front of a real gateway and real services."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import json_format

from tests.helpers.lexical import HYBRID
from tests.helpers.serving.browser import Browser
from tests.helpers.tiny import FILTERS
from tests.helpers.waiting import wait_until
from tests.serving.gateway.playground.conftest import (
    IN_A_BROWSER,
    QUERY,
    Sites,
    asked,
    give_token,
    microseconds,
)
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.client import RetrievalClient
from twinspire.serving.filters.expression import Filter, where
from twinspire.serving.wire.filter_converters import filter_to_wire

pytestmark = IN_A_BROWSER


def test_a_typed_question_is_answered_with_fields_scores_and_times(page: Browser, sites: Sites) -> None:
    page.open(sites.both)
    assert "Ask the two towers" in page.text()
    page.press(QUERY, "ENTER")
    page.wait_for(".hit")
    assert len(page.texts(".hit-title")) == 10
    assert page.texts(".answer-head h2") == ["10 hits"]
    assert "section" in page.texts(".hit-fields dt")
    scores = [float(text) for text in page.texts(".score")]
    assert scores == sorted(scores, reverse=True)
    widths = page.run(
        "return [...document.querySelectorAll('.score-bar')].map((bar) =>"
        " parseFloat(getComputedStyle(bar, '::after').width) / bar.clientWidth)"
    )
    assert widths == pytest.approx([score / scores[0] for score in scores], abs=0.02)
    page.one(".latency summary").click()
    stages = dict(zip(page.texts(".stage-table th"), page.texts(".stage-table td:last-child"), strict=True))
    assert list(stages) == ["Queue", "Encode", "Search", "Transport"]
    *server, _ = (microseconds(text) for text in stages.values())
    assert sum(server) == pytest.approx(
        microseconds(page.texts(".took")[0].removesuffix(" in the service")), rel=0.02
    )
    assert "rests on the question as it was asked" in page.texts(".explained")[0]
    assert page.text_of("#announcer").startswith("10 hits. First: ")


def test_the_cards_tell_the_bundle_its_towers_and_its_figures(page: Browser, sites: Sites) -> None:
    page.open(f"{sites.both}#view=service", ".facts")
    manifest = page.run("return (await (await fetch('v1/info')).json()).manifest")
    facts = dict(zip(page.texts(".facts dt"), page.texts(".facts dd"), strict=True))
    assert facts["Name"] == "tiny"
    assert facts["Version"] == manifest["bundle_version"][:12]
    assert facts["Items"] == "300"
    assert facts["Index"] == "HNSW, M 8, ef 64"
    assert facts["Index recall@10"] == "1.0000"
    assert page.texts(".tower li") == ["text", "text"]
    assert page.texts(".metric h3") == ["recall@10"]
    assert page.texts(".metric-row .number") == ["1.000\n(best)"]


def test_a_hybrid_answer_shows_what_vectors_and_words_gave(page: Browser, sites: Sites) -> None:
    page.open(f"{sites.hybrid}#view=service", ".facts")
    facts = dict(zip(page.texts(".facts dt"), page.texts(".facts dd"), strict=True))
    assert facts["Hybrid"] == f"BM25, weight {HYBRID.weight}"
    asked(page, sites.hybrid)
    scores = [float(text) for text in page.texts(".score")]
    names, values = page.texts(".hit .score-parts dt"), page.texts(".hit .score-parts dd")
    assert names == ["vectors", "words"] * len(scores)
    parts = zip(values[::2], values[1::2], strict=True)
    fused = [(1 - HYBRID.weight) * float(one) + HYBRID.weight * float(other) for one, other in parts]
    assert fused == pytest.approx(scores, abs=2e-3)
    assert float(values[1]) > 0
    assert "Vectors and words (BM25) ranked the items." in page.text_of(".explained")
    asked(page, sites.hybrid, "text=\N{CJK UNIFIED IDEOGRAPH-732B}")  # popular items: their scores are shares
    assert page.all(".hit") and not page.all(".score-parts")
    asked(page, sites.both)
    assert not page.all(".score-parts")


def test_more_like_this_asks_by_the_item_and_can_be_gone_back_from(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    first, second = page.ids()[:2]
    page.one(".hit:nth-child(2) .similar").click()
    page.wait_text(".explained", "the item's own vector")
    assert second not in page.ids()
    assert page.one("#search-box").get_attribute("value") == second
    page.driver.back()
    page.wait_text(".explained", "the question as it was asked")
    assert page.ids()[:2] == [first, second]


def test_an_excluded_item_is_left_out_until_its_chip_is_removed(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    before = page.ids()
    page.one(".hit .exclude").click()
    page.wait_changed(before)
    assert page.ids()[:9] == before[1:]
    page.one(f'.options .chip button[aria-label="Remove {before[0]}"]').click()
    page.wait_ids(before)


def test_filters_of_each_type_narrow_the_answer(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    before = page.ids()
    page.one("#add-condition").click()
    wait_until(lambda: page.focused() == "SELECT")
    page.choose("Field of condition 1", "price")
    page.choose("Test of condition 1", "at_most")
    assert page.run("return document.activeElement.ariaLabel") == "Test of condition 1"
    page.fill('[aria-label="Value of condition 1"]', "10")
    page.wait_changed(before)
    cheap = page.ids()
    page.one("#add-condition").click()
    page.choose("Field of condition 2", "section")
    page.choose("Test of condition 2", "in")
    page.one(".condition:last-child input[list]").send_keys("section 1")
    page.press("ENTER")
    page.wait_changed(cheap)
    page.one(".condition:last-child input").send_keys("section 2")
    page.press("ENTER")
    both = where.section.is_in(["section 1", "section 2"])
    page.wait_ids(expected(sites, (where.price <= 10) & both))
    page.choose("Which conditions an item has to pass", "any")
    page.wait_ids(expected(sites, (where.price <= 10) | both))
    assert "filter" in page.texts(".explained")[0]


def expected(sites: Sites, filter: Filter) -> list[str]:
    """The ids that a Python client gets from the gateway's champion."""
    with RetrievalClient(sites.champion) as client:
        return [hit.id for hit in client.search(QUERY, filter=filter).hits]


def test_each_operator_makes_the_filter_of_the_python_client(page: Browser, sites: Sites) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    later = datetime(2026, 2, 2, tzinfo=UTC)
    text, number = ["a"], ["2.5"]
    time, times = ["2026-01-02T03:04:05"], ["2026-01-02T03:04:05", "2026-02-02T00:00"]
    cases: list[tuple[str, str, list[str], Filter]] = [
        ("section", "eq", text, where.section == "a"),
        ("section", "ne", text, where.section != "a"),
        ("section", "in", ["a", "b"], where.section.is_in(["a", "b"])),
        ("section", "not_in", text, ~where.section.is_in(["a"])),
        ("tags", "eq", text, where.tags == "a"),
        ("price", "eq", number, where.price == 2.5),
        ("price", "ne", number, where.price != 2.5),
        ("price", "at_least", number, where.price >= 2.5),
        ("price", "above", number, where.price > 2.5),
        ("price", "at_most", number, where.price <= 2.5),
        ("price", "below", number, where.price < 2.5),
        ("price", "present", [], where.price.is_present()),
        ("price", "absent", [], where.price.is_absent()),
        ("sale", "true", [], where.sale == True),  # noqa: E712
        ("sale", "false", [], where.sale == False),  # noqa: E712
        ("released", "at_least", time, where.released >= moment),
        ("released", "below", time, where.released < moment),
        ("released", "between", times, where.released.between(moment, later)),
    ]
    page.open(sites.both)
    conditions = [[{"field": field, "operator": name, "values": values}] for field, name, values, _ in cases]
    made = page.run(
        "const { toFilter } = await import('/filters.js');"
        "return arguments[0].map((each) => toFilter(each, arguments[1], 'all'))",
        conditions,
        dict(FILTERS),
    )
    for (field, name, _, wanted), told in zip(cases, made, strict=True):
        found = json_format.ParseDict(told, wire.Filter())
        assert found == (None if wanted is None else filter_to_wire(wanted)), (field, name)


def test_a_number_and_a_time_are_sent_as_numbers_and_what_is_neither_as_it_is(
    page: Browser, sites: Sites
) -> None:
    kinds = {"age": "number", "asked": "time"}
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("age", "2.5", {"number": 2.5}),
        ("age", "old", {"text": "old"}),
        ("asked", "1700000000", {"number": 1_700_000_000}),
        ("asked", "2026-01-02T13:00", {"number": datetime(2026, 1, 2, 13, tzinfo=UTC).timestamp()}),
        ("asked", "2026-01-02T13:00+01:00", {"number": datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()}),
        ("asked", "2026", {"number": datetime(2026, 1, 1, tzinfo=UTC).timestamp()}),
        ("asked", "soon", {"text": "soon"}),
    ]
    page.open(sites.both)
    blank = {"mode": "text", "text": "a", "exclude": [], "conditions": []}
    made = page.run(
        "const { toRequest } = await import('/question.js');"
        "return arguments[0].map((each) => toRequest(each, { query_features: arguments[1] }))",
        [{**blank, "features": {name: value}} for name, value, _ in cases],
        kinds,
    )
    for (name, value, wanted), told in zip(cases, made, strict=True):
        assert told["query"]["features"] == {name: wanted}, value


def test_a_filter_that_nothing_passes_offers_to_ask_without(page: Browser, sites: Sites) -> None:
    asked(page, sites.both, f'text={QUERY}&where=["price","above","1000"]')
    assert "Nothing passes" in page.text()
    assert "no item passes the filter" in page.text()
    page.one("#clear-filters").click()
    page.wait_for(".hit")


def test_champion_and_challenger_stand_side_by_side_with_what_moved(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    page.press("TAB")
    page.one("label.toggle:has(#compare)").click()
    page.wait_for(".comparison")
    champion, challenger = page.ids(".champion .hit"), page.ids(".challenger .hit")
    assert len(champion) == len(challenger) == 10
    assert champion != challenger
    gone = [each for each in champion if each not in challenger]
    added = [each for each in challenger if each not in champion]
    tiles = page.texts(".tile")
    assert f"{10 - len(gone)} in both" in tiles
    assert f"{len(added)} new" in tiles
    badges = page.texts(".challenger .badge [aria-hidden]")
    for name, sign in (("rose", "▲"), ("fell", "▼"), ("same rank", "=")):
        assert f"{sum(badge.startswith(sign) for badge in badges)} {name}" in tiles
    for rank, (item, badge) in enumerate(zip(challenger, badges, strict=True)):
        moved = champion.index(item) - rank if item in champion else None
        if moved is None:
            assert badge == "new"
        else:
            assert badge == ("=" if not moved else f"▲ {moved}" if moved > 0 else f"▼ {-moved}")
    assert page.texts(".champion .badge [aria-hidden]") == ["gone"] * len(gone)
    assert "compare=1" in page.driver.current_url


def test_a_wrong_token_is_told_and_a_right_one_answers(page: Browser, sites: Sites) -> None:
    page.open(sites.guarded)
    assert "wants a token" in page.text()
    assert "UNAUTHENTICATED" in page.text()
    page.one("#enter-token").click()
    page.one("#token-input").send_keys("wrong")
    page.press("ENTER")
    page.wait_text("#answer", "UNAUTHENTICATED")
    assert {each["source"] for each in page.console_messages()} == {"network"}
    page.one("#enter-token").click()
    page.one("#token-input").send_keys(sites.tokens.plain["reader"])
    page.press("ENTER")
    page.wait_for(".blank")
    kept = page.run(
        "return JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])"
    )
    assert sites.tokens.plain["reader"] not in kept
    assert sites.tokens.plain["reader"] not in page.driver.page_source


def test_a_history_is_completed_and_asked_with_its_context(page: Browser, sites: Sites) -> None:
    enter(page, sites)
    page.one("#search-box").send_keys("tem-02")
    suggested = "return [...document.querySelectorAll('#main-input option')].map((each) => each.value)"
    wait_until(lambda: len(found := page.run(suggested)) > 3 and all("tem-02" in each for each in found))
    page.fill("#search-box", page.run(suggested)[0])
    chips = page.texts(".main-input .chip span")
    assert chips[0].startswith("item-02")
    page.one("#search-box").send_keys("item-200", "\ue007")
    page.fill(".features input[list]", "de")
    page.one("#ask").click()
    page.wait_for(".hit")
    assert "1 item of the history is unknown" in page.text()  # every tenth is
    assert chips[0] not in page.ids()  # the bundle was evaluated so
    assert f"history={chips[0]}&history=item-200" in page.driver.current_url
    assert "repeat" not in page.driver.current_url
    page.one("label.toggle:has(#exclude-history)").click()
    wait_until(lambda: chips[0] in page.ids())
    assert "repeat=1" in page.driver.current_url
    page.one("label.toggle:has(#exclude-history)").click()
    wait_until(lambda: page.ids() and chips[0] not in page.ids())
    assert "repeat=0" in page.driver.current_url
    assert "feature.country=de" in page.driver.current_url
    first, title = page.ids()[0], page.texts(".hit-title")[0]
    page.one(".hit .follow").click()
    page.wait_text(".main-input .chips", title)
    wait_until(lambda: first not in page.ids() and page.ids())
    assert f"history={first}" in page.driver.current_url


def enter(page: Browser, sites: Sites) -> None:
    """Open the guarded gateway, with a token."""
    page.open(sites.guarded)
    page.console_messages()  # of the request without one
    give_token(page, sites.tokens.plain["reader"])
    page.wait_for(".blank")


def test_a_dead_service_is_told_with_what_to_do(page: Browser, sites: Sites) -> None:
    page.open(sites.stoppable_url)
    sites.stoppable_server.stop()
    page.one(".examples button").click()
    page.wait_for(".failure")
    assert "The service does not answer" in page.text()
    assert "make serve" in page.text()
    assert page.all("#retry")
    assert {each["source"] for each in page.console_messages()} == {"network"}


def test_an_unknown_item_is_told(page: Browser, sites: Sites) -> None:
    asked(page, sites.both, "item=no-such-item")
    assert "does not know" in page.texts(".failure h2")[0]
    assert "no-such-item" in page.texts(".failure-message")[0]
    assert {each["source"] for each in page.console_messages()} == {"network"}


def test_each_basis_and_plan_is_told_in_words(page: Browser, sites: Sites) -> None:
    page.open(sites.both)
    for enum, function, fallback in (
        (wire.Basis, "basisInWords", "The answer rests on {}."),
        (wire.Plan, "planInWords", "Searched by {}."),
    ):
        script = (
            f"const {{ {function} }} = await import('/words.js'); "
            f"return arguments[0].map((name) => {function}(name))"
        )
        for name, told in zip(enum.keys(), page.run(script, list(enum.keys())), strict=True):
            plain = name.split("_", 1)[1].lower().replace("_", " ")
            assert told != fallback.format(plain), f"{name} has no words in words.js"
            assert told.endswith(".")
