"""Keyboard, focus, contrast, themes, small screens and hostile texts, in a real browser."""

import re
from pathlib import Path

import pytest

from tests.helpers.serving import browser
from tests.helpers.serving.browser import PHONE, Browser
from tests.serving.gateway.playground.conftest import HOSTILE, HOSTILE_ITEM, QUERY, Sites, asked
from twinspire.serving.gateway.pages import HERE

MISSING = browser.missing()
pytestmark = [pytest.mark.exhaustive, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

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
    page.wait_for("#answer-body > .answer-view > .hits")
    page.press("?")
    assert page.one("#shortcuts-dialog").is_displayed()
    page.press("ESCAPE")
    page.run("document.querySelector('.hit').focus()")
    page.press("m")
    page.wait_text(".explained", "the item's own vector")
    assert page.focused() == page.ids()[0]


def test_focus_goes_through_the_page_in_its_order_and_is_seen(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
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


def test_everything_that_can_be_used_has_a_name(page: Browser, sites: Sites) -> None:
    link = f'text={QUERY}&compare=1&where=["price","between","1","40"]&where=["section","in","section 1"]'
    asked(page, sites.both, link)
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = ("button", "link", "textbox", "searchbox", "combobox", "spinbutton", "radio", "switch", "checkbox")
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in (*used, "list")]
    assert {node["role"]["value"] for node in found} >= {"button", "link", "searchbox", "combobox", "switch"}
    nameless = [node for node in found if node["role"]["value"] in used and not node["name"]["value"].strip()]
    assert not nameless


def opened(page: Browser, sites: Sites, link: str) -> None:
    """Open a link, and all cards."""
    asked(page, sites.both, link or "none")
    page.run(OPEN_ALL)


def test_text_is_readable_in_both_themes(page: Browser, sites: Sites) -> None:
    link = f'text={QUERY}&exclude=item-001&where=["price","between","1","40"]'
    for each in (link, f"{link}&compare=1", "item=no-such-item", ""):
        opened(page, sites, each)
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
    page.console_messages()  # of the unknown item


def test_the_theme_follows_the_system_until_the_button_says_otherwise(page: Browser, sites: Sites) -> None:
    def darkness() -> str:
        return str(page.run("return getComputedStyle(document.documentElement).backgroundColor"))

    page.open(sites.both)
    light = darkness()
    page.prefer("dark")
    assert darkness() != light
    page.one("#theme-button").click()
    assert darkness() == light
    page.open(sites.both)
    assert darkness() == light  # it is remembered
    page.one("#theme-button").click()
    page.prefer("light")
    assert darkness() != light
    page.one("#theme-button").click()
    assert darkness() == light


def test_a_phone_shows_everything_without_scrolling_sideways(page: Browser, sites: Sites) -> None:
    # Among the hits is the hostile item, whose name is long.
    link = f'text={QUERY}&exclude=item-001&where=["released","between","2026-01-01T00:00","2026-02-01T00:00"]'
    for each in (link, f"text={QUERY}&compare=1", "item=no-such-item", ""):
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


def test_no_style_or_script_stands_in_the_page(page: Browser, sites: Sites) -> None:
    folder = HERE / "playground"
    text = (folder / "index.html").read_text()
    assert "style=" not in text
    assert "<style" not in text
    assert text.count("<script") == 1
    for script in folder.glob("*.js"):
        assert not re.search(
            r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(", script.read_text()
        ), script
    asked(page, sites.both)
    loaded = page.run(
        "return performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)"
    )
    assert set(loaded) == {page.run("return location.origin")}
