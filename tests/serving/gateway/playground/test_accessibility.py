"""Keyboard, focus, contrast, themes, small screens and hostile texts, in a real browser."""

import re
from pathlib import Path

from tests.helpers.serving.browser import PHONE, Browser
from tests.serving.gateway.playground.conftest import (
    HOSTILE,
    HOSTILE_ITEM,
    IN_A_BROWSER,
    QUERY,
    Sites,
    asked,
)
from twinspire.serving.gateway.pages import HERE

pytestmark = IN_A_BROWSER

TEXT_CONTRAST, LARGE_TEXT_CONTRAST, EDGE_CONTRAST = 4.5, 3.0, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
THEMES = ("light", "dark")
OTHER_VIEWS = ("view=items", "view=items&find=item-007", "view=service")
MOST_SCRIPT_BYTES = 60_000
CONTRASTS = (Path(__file__).parent / "contrast.js").read_text()
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


def test_the_keyboard_alone_is_enough(page: Browser, sites: Sites) -> None:
    page.open(sites.both)
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
    page.wait_for("#answer > .answer-view > .hits")
    page.press("?")
    assert page.one("#shortcuts-dialog").is_displayed()
    page.press("ESCAPE")
    page.run("document.querySelector('.hit').focus()")
    page.press("m")
    page.wait_text(".explained", "the item's own vector")
    assert page.focused() == page.ids()[0]


def test_everything_that_can_be_used_has_a_name(page: Browser, sites: Sites) -> None:
    link = f'text={QUERY}&compare=1&where=["price","between","1","40"]&where=["section","in","section 1"]'
    used = ("button", "link", "textbox", "searchbox", "combobox", "spinbutton", "radio", "switch", "checkbox")
    roles = set()
    for each in (link, *OTHER_VIEWS):
        opened(page, sites, each)
        nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in used]
        assert not [node for node in found if not node["name"]["value"].strip()], each
        roles |= {node["role"]["value"] for node in found}
    assert roles >= {"button", "link", "searchbox", "combobox", "switch"}


def opened(page: Browser, sites: Sites, link: str) -> None:
    """Open a link, all folded parts, and the second hit."""
    page.open(f"{sites.both}#{link}", ".hit, .blank, .failure, .facts")
    page.run(OPEN_ALL)
    if page.all(".hit .open"):
        page.run("document.querySelectorAll('.hit .open')[1].click()")
        page.wait_for(".hit .near")


def test_text_is_readable_in_both_themes(page: Browser, sites: Sites) -> None:
    link = f'text={QUERY}&exclude=item-001&where=["price","between","1","40"]'
    for each in (link, f"{link}&compare=1", "item=no-such-item", "", *OTHER_VIEWS):
        opened(page, sites, each)
        for theme in THEMES:
            page.prefer(theme)
            measured = page.run(CONTRASTS)
            assert len(measured["texts"]) > 15
            faint = [
                (text, ratio)
                for text, ratio, large in measured["texts"]
                if ratio < (LARGE_TEXT_CONTRAST if large else TEXT_CONTRAST)
            ]
            assert not faint, (each, theme)
            assert measured["edges"] or each == "view=service"
            assert not [(name, ratio) for name, ratio in measured["edges"] if ratio < EDGE_CONTRAST], theme
    page.console_messages()  # of the unknown item


def test_a_phone_shows_everything_without_scrolling_sideways(page: Browser, sites: Sites) -> None:
    # Among the hits is the hostile item, whose name is long.
    link = f'text={QUERY}&exclude=item-001&where=["released","between","2026-01-01T00:00","2026-02-01T00:00"]'
    for each in (link, f"text={QUERY}&compare=1", "item=no-such-item", "", *OTHER_VIEWS):
        opened(page, sites, each)
        for width in (PHONE[0], 320):
            page.resize((width, PHONE[1]))
            assert not page.run(WIDER_THAN_THE_SCREEN), (each, width)
            assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
            assert not page.run(SMALLER_THAN_A_FINGER), (each, width)
    page.console_messages()  # of the unknown item


def test_hostile_names_and_fields_are_shown_as_text(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    place = page.ids().index(HOSTILE_ITEM)
    assert page.texts(".hit-title")[place] == HOSTILE["name"]
    assert HOSTILE["section"] in page.texts(f'[data-id="{HOSTILE_ITEM}"] .hit-fields dd')
    assert not page.all("main img, main script")
    assert "owned" not in page.driver.title
    page.one(f'[data-id="{HOSTILE_ITEM}"] .similar').click()
    page.wait_text(".explained", "the item's own vector")
    asked(page, sites.both, 'item=%3Cimg%20src%3Dx%20onerror%3D"document.title=1"%3E')
    assert "<img src=x" in page.text()
    assert not page.all("main img")
    page.console_messages()


def test_the_page_loads_little_script_and_the_rest_when_it_is_wanted(page: Browser, sites: Sites) -> None:
    scripts = (
        "return performance.getEntriesByType('resource').filter((each) => each.name.endsWith('.js'))"
        ".map((each) => [new URL(each.name).pathname.slice(1), each.decodedBodySize])"
    )
    asked(page, sites.both)
    loaded = dict(page.run(scripts))
    assert all((HERE / "playground" / name).stat().st_size == size for name, size in loaded.items())
    assert 0 < sum(loaded.values()) <= MOST_SCRIPT_BYTES
    page.one(".hit .open").click()
    page.wait_for(".detail .facts")
    page.one("label.toggle:has(#compare)").click()
    page.wait_for(".comparison")
    page.one("#add-condition").click()
    page.wait_for("#conditions .condition")
    page.one("#service-tab").click()
    page.wait_for("#service-view .facts")
    page.one("#items-tab").click()
    page.wait_for("#found .blank")
    with_users = {"user.js"}  # of a service with events
    assert {name for name, _ in page.run(scripts)} | with_users == {
        each.name for each in (HERE / "playground").glob("*.js")
    }


def test_scripts_write_no_markup_and_come_from_this_origin(page: Browser, sites: Sites) -> None:
    folder = HERE / "playground"
    assert (folder / "index.html").read_text().count("<script") == 1
    for script in folder.glob("*.js"):
        assert not re.search(
            r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(", script.read_text()
        ), script
    asked(page, sites.both)
    loaded = page.run(
        "return performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)"
    )
    assert set(loaded) == {page.run("return location.origin")}
