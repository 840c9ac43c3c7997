"""The playground in a real browser, in front of a real gateway and real services."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from google.protobuf import json_format

from protos import bundle
from protos import retrieval_pb2 as wire
from serving.client import RetrievalClient
from serving.client.protocol import filter_message
from serving.filters.expression import Filter, where
from serving.gateway.messages import document
from serving.gateway.pages import HERE
from serving.retrieval.retriever import Retriever
from serving.security.access import Access
from serving.security.tokens import TokenFile
from serving.server import RetrievalServer
from tests.helpers.serving import browser
from tests.helpers.serving.browser import DESKTOP, PHONE, Browser
from tests.helpers.serving.gateways import gateway
from tests.helpers.serving.token_files import Tokens
from tests.helpers.tiny import FILTERS, tiny_bundle, watched_bundle
from tests.helpers.waiting import wait_until

MISSING = browser.missing()
pytestmark = [pytest.mark.exhaustive, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

QUERY = "bavuti xelike mopy"
HOSTILE_ITEM = "item-280"  # the second hit of the query
HOSTILE = {
    "name": "<img src=x onerror=\"document.title='owned';console.error('a-name-ran-as-a-script')\">",
    "section": "</dd><script>document.title='owned'</script>",
}
TEXT_CONTRAST, LARGE_TEXT_CONTRAST, EDGE_CONTRAST = 4.5, 3.0, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
THEMES = ("light", "dark")
CONTRASTS = (Path(__file__).parent / "contrast.js").read_text()
# What has the focus, how far down the page it is, and what had it before if that looks the same without it.
FOCUS = """
    const here = document.activeElement;
    const parts = [here, here.closest(".ask-row, .choice-box"), here.nextElementSibling].filter(Boolean);
    const look = (each) => [...each].map((part) => {
        const { outline, boxShadow, backgroundColor, left } = getComputedStyle(part);
        return [outline, boxShadow, backgroundColor, left].join();
    }).join(";");
    const before = window.before;
    window.before = { name: here.outerHTML.slice(0, 80), parts, seen: look(parts) };
    const unseen = before && look(before.parts) === before.seen ? before.name : null;
    return [window.before.name, here.getBoundingClientRect().top + scrollY, unseen];
"""
OPEN_ALL = "document.querySelectorAll('details').forEach((each) => { each.open = true })"
WIDER_THAN_THE_SCREEN = """
    const spills = (each) => each.clientWidth > 0 && each.scrollWidth > each.clientWidth + 8
        && getComputedStyle(each).overflowX === "visible";
    return [...document.querySelectorAll("body *")]
        .filter((each) => each.checkVisibility() && !each.matches(".unseen, .skip, option"))
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 || spills(each))
        .map((each) => each.outerHTML.slice(0, 90));
"""
SMALLER_THAN_A_FINGER = """
    return [...document.querySelectorAll("button, select, input, summary")]
        .filter((each) => each.checkVisibility())
        .filter((each) => (each.closest("label") ?? each).getBoundingClientRect().height < 24)
        .map((each) => each.outerHTML.slice(0, 90));
"""


class Places(NamedTuple):
    """What the tests visit.

    Args:
        both: URL of a gateway in front of champion and challenger, whose queries are texts.
        champion: address of the champion's service.
        guarded: URL of a gateway in front of a service with tokens, whose queries are histories.
        tokens: of the latter.
        mortal: URL of a gateway in front of a service that a test may stop.
        victim: that service.
    """

    both: str
    champion: str
    guarded: str
    tokens: Tokens
    mortal: str
    victim: RetrievalServer


def hostile(folder: Path) -> None:
    """Give an item of a bundle display fields that are markup."""
    path = folder / bundle.ITEMS
    table = json.loads(path.read_text())
    for name, text in HOSTILE.items():
        table["fields"][name][table["ids"].index(HOSTILE_ITEM)] = text
    path.write_text(json.dumps(table))


def resealed(folder: Path, parent: Path) -> Path:
    """A copy of a bundle with a hostile item."""

    def fill(draft: Path) -> None:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        (draft / bundle.MANIFEST).unlink()
        hostile(draft)

    return bundle.write(parent, bundle.read(folder), fill)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Services, and gateways in front of them."""
    folder = tmp_path_factory.mktemp("playground")
    champion = resealed(tiny_bundle(folder, filters=FILTERS), folder)
    # Has fewer items than the champion: some of the champion's are gone, and others take their ranks.
    challenger = tiny_bundle(folder, 200, filters=FILTERS)
    tokens = Tokens(folder / "tokens.toml")
    with ExitStack() as stack:

        def serve(folder: Path, access: Access | None = None) -> RetrievalServer:
            return stack.enter_context(RetrievalServer(Retriever.load(folder), access=access))

        one, other, victim = serve(champion), serve(challenger), serve(challenger)
        guarded = serve(watched_bundle(folder), Access(tokens=TokenFile(tokens.path)))
        both, behind_tokens, mortal = (
            stack.enter_context(gateway(server.address, compare_address=compared))
            for server, compared in ((one, other.address), (guarded, None), (victim, None))
        )
        urls = [f"http://127.0.0.1:{each.port}/" for each in (both, behind_tokens, mortal)]
        yield Places(urls[0], one.address, urls[1], tokens, urls[2], victim)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.browsing() as found:
        yield found


@pytest.fixture
def page(chromium: Browser) -> Iterator[Browser]:
    """The browser on a desktop's screen; what the console says afterwards fails the test."""
    chromium.resize(DESKTOP)
    chromium.prefer("light")
    chromium.complaints()
    yield chromium
    said = chromium.complaints()
    assert not said, said


def asked(page: Browser, url: str, link: str = "") -> None:
    """Open a link of a question, `QUERY` if none is given, and wait for its answer."""
    page.open(f"{url}#{link or f'text={QUERY}'}")


def microseconds(text: str) -> float:
    """Of a duration as the page writes it."""
    number, unit = text.split()
    return float(number.replace(",", "")) * {"µs": 1, "ms": 1e3, "s": 1e6}[unit]


def test_a_typed_question_is_answered_with_fields_scores_and_times(page: Browser, places: Places) -> None:
    page.open(places.both)
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
    stages = dict(zip(page.texts(".stage-table th"), page.texts(".stage-table td:last-child"), strict=True))
    assert list(stages) == ["Queue", "Encode", "Search", "Transport"]
    *server, _ = (microseconds(text) for text in stages.values())
    assert sum(server) == pytest.approx(
        microseconds(page.texts(".took")[0].removesuffix(" in the service")), rel=0.02
    )
    assert "rests on the question as it was asked" in page.texts(".explained")[0]
    assert page.text_of("#announcer").startswith("10 hits. First: ")


def test_the_cards_tell_the_bundle_its_towers_and_its_figures(page: Browser, places: Places) -> None:
    asked(page, places.both)
    manifest = page.run("return JSON.parse((await (await fetch('v1/info')).json()).manifest_json)")
    facts = dict(zip(page.texts(".facts dt"), page.texts(".facts dd"), strict=True))
    assert facts["Name"] == "tiny"
    assert facts["Version"] == manifest["bundle_version"][:12]
    assert facts["Items"] == "300"
    assert facts["Index"] == "HNSW, M 8, ef 64"
    assert facts["Index recall@10"] == "1.0000"
    assert page.texts(".tower li") == ["text", "text"]
    assert page.texts(".metric h3") == ["recall@10"]
    assert page.texts(".metric-row .number") == ["1.000\n(best)"]


def test_release_shadow_and_live_items_are_told(page: Browser, places: Places) -> None:
    page.open(places.both)
    state = wire.ServiceState(
        workers=2,
        workers_up=1,
        tokens=True,
        requests={"OK": 1234, "INVALID_ARGUMENT": 5},
        bundles=[
            wire.ServedBundle(role="champion", bundle_version="ab" * 32, model_version="7", share=0.95),
            wire.ServedBundle(role="canary", bundle_version="cd" * 32, share=0.05, requests=1500, errors=2),
        ],
        following=wire.Following(
            model="models:/shop@champion", swaps=3, last_error="the registry is <b>away</b>"
        ),
        shadow=wire.Shadow(model="models:/shop@shadow", queries=10, overlap_at_10=0.8, latency_ratio=1.25),
        catalogue=wire.LiveCatalogue(
            sequence=20, worker_sequence=18, live_items=400, tombstones=100, bounds={"max_overlay": 1000}
        ),
    )
    told = page.run(
        "const { railPanels } = await import('/rail.js');"
        "const panels = railPanels({ ...arguments[0], manifest: {} }, { compare: false, version: '1' });"
        "return panels.map((each) => { each.open = true; return each.textContent; }).join(' ')",
        document(wire.InfoResponse(name="shop", state=state)),
    )
    for text in (
        "championabababab v7",
        "95 %",
        "canarycdcdcdcd5 %1,500 2 failed",
        "Followsmodels:/shop@champion",
        "the registry is <b>away</b>",
        "Overlap of the first 1080 %",
        "Time over the champion's1.25",
        "Written since the build400",
        "Not yet searched2 changes",
        "50 % of 1,000 until make refresh is due",
        "Workers1 of 2",
        "Other than OK5 INVALID_ARGUMENT",
        "Protected bytokens",
    ):
        assert text in told, (text, told)


def test_each_failure_is_told_with_what_to_do(page: Browser, places: Places) -> None:
    page.open(places.both)
    codes = [*(code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK), "GATEWAY_DOWN"]
    told = page.run(
        "const { failureInWords } = await import('/words.js');"
        "return arguments[0].map((code) => failureInWords({ code, message: '', retryAfter: 90 }))",
        codes,
    )
    said = dict(zip(codes, told, strict=True))
    assert all(each["title"] and each["advice"].endswith((".", "`")) for each in told)
    assert said["RESOURCE_EXHAUSTED"]["advice"] == "Ask again in 2 min."
    assert "`make serve`" in said["UNAVAILABLE"]["advice"]
    assert "`make serve-http`" in said["GATEWAY_DOWN"]["advice"]
    assert said["UNAUTHENTICATED"]["action"] == "token"
    assert "(ABORTED)" in said["ABORTED"]["title"]


def test_more_like_this_asks_by_the_item_and_can_be_gone_back_from(page: Browser, places: Places) -> None:
    asked(page, places.both)
    first, second = page.ids()[:2]
    page.one(".hit:nth-child(2) .similar").click()
    page.wait_text(".explained", "the item's own vector")
    assert second not in page.ids()
    assert page.one("#search-box").get_attribute("value") == second
    page.driver.back()
    page.wait_text(".explained", "the question as it was asked")
    assert page.ids()[:2] == [first, second]


def test_an_excluded_item_is_left_out_until_its_chip_is_removed(page: Browser, places: Places) -> None:
    asked(page, places.both)
    before = page.ids()
    page.one(".hit .exclude").click()
    page.wait_changed(before)
    assert page.ids()[:9] == before[1:]
    page.one(f'.options .chip button[aria-label="Remove {before[0]}"]').click()
    page.wait_ids(before)


def test_the_number_of_items_is_that_of_the_field(page: Browser, places: Places) -> None:
    asked(page, places.both)
    page.fill("#k", "3")
    page.wait_text(".answer-head h2", "3 hits")
    assert len(page.ids()) == 3
    assert "k=3" in page.driver.current_url


def test_filters_of_each_type_narrow_the_answer(page: Browser, places: Places) -> None:
    asked(page, places.both)
    before = page.ids()
    page.one("#add-condition").click()
    assert page.focused() == "SELECT"
    page.choose("Field of condition 1", "price")
    page.choose("Test of condition 1", "at_most")
    assert page.run("return document.activeElement.ariaLabel") == "Test of condition 1"
    page.fill('[aria-label="Value of condition 1"]', "10")
    page.wait_changed(before)
    cheap = page.ids()
    page.one("#add-condition").click()
    page.choose("Field of condition 2", "section")
    page.choose("Test of condition 2", "in")
    page.one('.condition:last-child input[role="combobox"]').send_keys("section 1")
    page.press("ENTER")
    page.wait_changed(cheap)
    page.one(".condition:last-child input").send_keys("section 2")
    page.press("ENTER")
    both = where.section.is_in(["section 1", "section 2"])
    page.wait_ids(expected(places, (where.price <= 10) & both))
    page.choose("Which conditions an item has to pass", "any")
    page.wait_ids(expected(places, (where.price <= 10) | both))
    assert "filter" in page.texts(".explained")[0]


def expected(places: Places, filter: Filter) -> list[str]:
    """The ids that a Python client gets from the gateway's champion."""
    with RetrievalClient(places.champion) as client:
        return [hit.id for hit in client.search(QUERY, filter=filter).hits]


def test_each_operator_makes_the_filter_of_the_python_client(page: Browser, places: Places) -> None:
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
    page.open(places.both)
    conditions = [[{"field": field, "operator": name, "values": values}] for field, name, values, _ in cases]
    made = page.run(
        "const { toFilter } = await import('/filters.js');"
        "return arguments[0].map((each) => toFilter(each, arguments[1], 'all'))",
        conditions,
        dict(FILTERS),
    )
    for (field, name, _, wanted), told in zip(cases, made, strict=True):
        found = json_format.ParseDict(told, wire.Filter())
        assert found == filter_message(wanted), (field, name)


def test_a_filter_that_nothing_passes_offers_to_ask_without(page: Browser, places: Places) -> None:
    asked(page, places.both, f'text={QUERY}&where=["price","above","1000"]')
    assert "Nothing passes" in page.text()
    assert "no item passes the filter" in page.text()
    page.one("#clear-filters").click()
    page.wait_for(".hit")


def test_champion_and_challenger_stand_side_by_side_with_what_moved(page: Browser, places: Places) -> None:
    asked(page, places.both)
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
    assert len(page.all(".slopes path")) == 10 - len(gone)
    assert "compare=1" in page.driver.current_url


def test_the_champion_answers_alone_what_the_challenger_cannot(page: Browser, places: Places) -> None:
    asked(page, places.both, "item=item-250&compare=1")  # the challenger has 200 items
    assert page.texts(".notice")[0].startswith("There is nothing to compare with. challenger: ")
    assert "item-250" in page.texts(".notice")[0]
    assert len(page.ids()) == 10
    assert {each["source"] for each in page.complaints()} == {"network"}


def test_a_wrong_token_is_told_and_a_right_one_answers(page: Browser, places: Places) -> None:
    page.open(places.guarded)
    assert "wants a token" in page.text()
    assert "UNAUTHENTICATED" in page.text()
    page.one("#enter-token").click()
    page.one("#token-input").send_keys("wrong")
    page.press("ENTER")
    page.wait_text("#answer", "UNAUTHENTICATED")
    assert {each["source"] for each in page.complaints()} == {"network"}
    page.one("#enter-token").click()
    page.one("#token-input").send_keys(places.tokens.plain["reader"])
    page.press("ENTER")
    page.wait_for(".blank")
    kept = page.run(
        "return JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])"
    )
    assert places.tokens.plain["reader"] not in kept
    assert places.tokens.plain["reader"] not in page.driver.page_source


def test_a_history_is_completed_and_asked_with_its_context(page: Browser, places: Places) -> None:
    enter(page, places)
    page.one("#search-box").send_keys("tem-02")
    page.wait_text(".main-input .suggestions", "item-02")
    page.press("ARROW_DOWN", "ENTER")
    chips = page.texts(".main-input .chip span")
    assert chips[0].startswith("item-02")
    page.one("#search-box").send_keys("item-200", "\ue007")
    page.fill('.features input[role="combobox"]', "de")
    page.one(".ask").click()
    page.wait_for(".hit")
    assert "1 item of the history is unknown" in page.text()  # every tenth is
    assert chips[0] not in page.ids()
    assert f"history={chips[0]}&history=item-200" in page.driver.current_url
    assert "feature.country=de" in page.driver.current_url
    first, title = page.ids()[0], page.texts(".hit-title")[0]
    page.one(".hit .follow").click()
    page.wait_text(".main-input .chips", title)
    wait_until(lambda: first not in page.ids() and page.ids())
    assert f"history={first}" in page.driver.current_url


def enter(page: Browser, places: Places) -> None:
    """Open the guarded gateway, with a token."""
    page.open(places.guarded)
    page.complaints()  # of the request without one
    page.one("#token-button").click()
    page.one("#token-input").send_keys(places.tokens.plain["reader"], "\ue007")
    page.wait_for(".blank")


def test_a_dead_service_is_told_with_what_to_do(page: Browser, places: Places) -> None:
    page.open(places.mortal)
    places.victim.stop()
    page.one(".examples button").click()
    page.wait_for(".failure")
    assert "The service does not answer" in page.text()
    assert "make serve" in page.text()
    assert page.all("#retry")
    assert {each["source"] for each in page.complaints()} == {"network"}


def test_an_unknown_item_is_told(page: Browser, places: Places) -> None:
    asked(page, places.both, "item=no-such-item")
    assert "does not know" in page.texts(".failure h2")[0]
    assert "no-such-item" in page.texts(".failure-message")[0]
    assert {each["source"] for each in page.complaints()} == {"network"}


def test_the_keyboard_alone_is_enough(page: Browser, places: Places) -> None:
    page.open(places.both)
    page.run("document.getElementById('theme-button').focus()")
    page.press("/")
    assert page.focused() == "search-box"
    page.press(QUERY, "ENTER")
    page.wait_for(".hit")
    ids = page.ids()
    page.press("ARROW_DOWN", "ARROW_DOWN")
    assert page.focused() == ids[1]
    assert page.run("return getComputedStyle(document.activeElement).boxShadow") != "none"
    page.press("END")
    assert page.focused() == ids[-1]
    page.press("HOME", "ARROW_UP")
    assert page.focused() == "search-box"
    page.press("ARROW_DOWN", "x")
    page.wait_changed(ids)
    assert page.focused() == ids[1]
    page.press("c")
    page.wait_for(".comparison")
    page.press("c")
    page.wait_for("#answer-body > .answer-view > .hits")
    page.press("?")
    assert page.one("#shortcuts-dialog").is_displayed()
    page.press("ESCAPE")
    page.run("document.querySelector('.hit').focus()")
    page.press("m")
    page.wait_text(".explained", "the item's own vector")
    assert page.focused() == page.ids()[0]


def test_focus_goes_through_the_page_in_its_order_and_is_seen(page: Browser, places: Places) -> None:
    asked(page, places.both)
    page.run("document.querySelector('.skip').focus()")
    seen, heights = [], []
    for _ in range(16):
        name, height, unseen = page.run(FOCUS)
        assert unseen is None
        page.press("TAB")
        seen.append(name)
        heights.append(height)
    assert len(set(seen)) == len(seen)
    assert heights[-1] > heights[0]
    assert 'class="skip"' in seen[0]


def test_everything_that_can_be_used_has_a_name(page: Browser, places: Places) -> None:
    link = f'text={QUERY}&compare=1&where=["price","between","1","40"]&where=["section","in","section 1"]'
    asked(page, places.both, link)
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = ("button", "link", "textbox", "searchbox", "combobox", "spinbutton", "radio", "switch", "checkbox")
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in (*used, "list")]
    assert {node["role"]["value"] for node in found} >= {"button", "link", "searchbox", "combobox", "switch"}
    nameless = [node for node in found if node["role"]["value"] in used and not node["name"]["value"].strip()]
    assert not nameless


def test_text_is_readable_in_both_themes(page: Browser, places: Places) -> None:
    link = f'text={QUERY}&exclude=item-001&where=["price","between","1","40"]'
    for each in (link, f"{link}&compare=1", "item=no-such-item", ""):
        asked(page, places.both, each or "none")
        page.run(OPEN_ALL)
        for theme in THEMES:
            page.prefer(theme)
            measured = page.run(CONTRASTS)
            assert len(measured["texts"]) > 20
            faint = [
                (text, ratio)
                for text, ratio, large in measured["texts"]
                if ratio < (LARGE_TEXT_CONTRAST if large else TEXT_CONTRAST)
            ]
            assert not faint, (each, theme)
            assert measured["edges"]
            assert not [(name, ratio) for name, ratio in measured["edges"] if ratio < EDGE_CONTRAST], theme
    page.complaints()  # of the unknown item


def test_the_theme_follows_the_system_until_the_button_says_otherwise(page: Browser, places: Places) -> None:
    def darkness() -> str:
        return str(page.run("return getComputedStyle(document.documentElement).backgroundColor"))

    page.open(places.both)
    light = darkness()
    page.prefer("dark")
    assert darkness() != light
    page.one("#theme-button").click()
    assert darkness() == light
    page.open(places.both)
    assert darkness() == light  # it is remembered
    page.one("#theme-button").click()
    page.prefer("light")
    assert darkness() != light
    page.one("#theme-button").click()
    assert darkness() == light


def test_a_phone_shows_everything_without_scrolling_sideways(page: Browser, places: Places) -> None:
    # Among the hits is the hostile item, whose name is long.
    link = f'text={QUERY}&exclude=item-001&where=["released","between","2026-01-01T00:00","2026-02-01T00:00"]'
    for each in (link, f"text={QUERY}&compare=1", "item=no-such-item", ""):
        asked(page, places.both, each or "none")
        page.run(OPEN_ALL)
        for width in (PHONE[0], 320):
            page.resize((width, PHONE[1]))
            assert not page.run(WIDER_THAN_THE_SCREEN), (each, width)
            assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
            assert not page.run(SMALLER_THAN_A_FINGER), (each, width)
    page.complaints()  # of the unknown item


def test_hostile_names_and_fields_are_shown_as_text(page: Browser, places: Places) -> None:
    asked(page, places.both)
    place = page.ids().index(HOSTILE_ITEM)
    assert page.texts(".hit-title")[place] == HOSTILE["name"]
    assert HOSTILE["section"] in page.texts(f'[data-id="{HOSTILE_ITEM}"] .hit-fields dd')
    assert not page.all("main img, main script")
    assert "owned" not in page.driver.title
    page.one(f'[data-id="{HOSTILE_ITEM}"] .similar').click()
    page.wait_text(".explained", "the item's own vector")
    asked(page, places.both, 'item=%3Cimg%20src%3Dx%20onerror%3D"document.title=1"%3E')
    assert "<img src=x" in page.text()
    assert not page.all("main img")
    page.complaints()


def test_no_style_or_script_stands_in_the_page(page: Browser, places: Places) -> None:
    folder = HERE / "playground"
    text = (folder / "index.html").read_text()
    assert "style=" not in text
    assert "<style" not in text
    assert text.count("<script") == 1
    for script in folder.glob("*.js"):
        assert not re.search(
            r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(", script.read_text()
        ), script
    asked(page, places.both)
    loaded = page.run(
        "return performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)"
    )
    assert set(loaded) == {page.run("return location.origin")}


def test_each_basis_and_plan_is_told_in_words(page: Browser, places: Places) -> None:
    page.open(places.both)
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
