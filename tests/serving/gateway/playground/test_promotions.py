"""Gates and history on the page, in a real browser."""

import re

import pytest

from tests.helpers.serving import browser
from tests.helpers.serving.browser import Browser
from tests.helpers.serving.promotions import HOSTILE
from tests.serving.gateway.playground.conftest import QUERY, Sites, asked

MISSING = browser.missing()
pytestmark = [pytest.mark.exhaustive, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

OPEN = "document.querySelectorAll('.panel').forEach((each) => { each.open = true })"


def test_gates_are_shown_with_figures_bounds_and_what_was_overridden(page: Browser, sites: Sites) -> None:
    asked(page, sites.promoted)
    assert page.one(".gates").is_displayed()  # it stands open, because gates were overridden
    (said,) = page.texts(".panel-body:has(.gates) > p:first-child")
    assert said == "Version 2 was promoted by force on 25 Nov 2026, 14:05 UTC: 2 of 4 gates did not hold."
    rows = page.run(
        "return [...document.querySelectorAll('.gates tbody tr')].map((row) =>"
        " [...row.children].map((cell) => cell.textContent))"
    )
    assert rows == [
        ["✓passed", "recall of the index", "0.9876", "≥ 0.9500"],
        ["✓passed", "load time", "1.50", "30.0"],  # a record without texts
        ["✗overridden", "parityoverridden", "–", "0.0000100"],
        ["✗overridden", f"{HOSTILE}overridden", "-0.0500", "≥ -0.0100"],
    ]
    assert page.texts(".panel-body:has(.gates) > .notice") == [f"{HOSTILE}: loses to BM25 {HOSTILE}"]


def test_the_history_tells_when_by_whom_and_why(page: Browser, sites: Sites) -> None:
    asked(page, sites.promoted)
    page.run(OPEN)
    texts = page.texts(".panel-body > .moves > .move")
    lines = [list(filter(None, text.splitlines())) for text in texts]
    assert lines[0] == ["Version 4 promoted", "interrupted", f"{HOSTILE}, before: version 2", "by ann@one"]
    assert lines[1] == [
        *("Rolled back to version 2", "served", "25 Nov 2026, 14:07 UTC, before: version 3"),
        *(f"by {HOSTILE}", HOSTILE),
    ]
    assert lines[3][0] == "Version 2 promoted by force"
    assert lines[3][-2:] == ["the shop opens", "Overridden: parity, quality"]
    assert lines[4][:2] == ["Version 2 refused", "25 Nov 2026, 14:04 UTC, version 1 stayed"]
    assert lines[4][-1] == "Did not hold: quality"
    assert len(lines) == 6
    assert page.texts(".older summary") == ["2 older"]
    page.one(".older summary").click()
    assert page.texts(".older .move strong") == ["Version 1 promoted"] * 2
    (error,) = page.texts(".panel-body:has(.moves) > .notice")
    shown = r"The registry cannot be read: the table is locked\. What is shown was read \d+ min ago\."
    assert re.fullmatch(shown, error)
    assert page.run("return document.querySelector('.move time').dateTime") == "2026-11-25T14:07:00.123Z"


def test_texts_of_the_registry_are_shown_as_text(page: Browser, sites: Sites) -> None:
    asked(page, sites.promoted)
    page.run(OPEN)
    assert page.text().count(HOSTILE) >= 4
    assert not page.all(".rail img, .rail script")
    assert "owned" not in page.driver.title


def test_a_folder_has_no_promotions_and_the_page_says_so(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    page.run(OPEN)
    assert "Served from a folder: no promotions to show." in page.text()
    assert not page.all(".gates, .moves")


def test_what_stands_open_stays_open_while_questions_are_asked(page: Browser, sites: Sites) -> None:
    asked(page, sites.promoted)
    script = (
        "return [...document.querySelectorAll('.panel')].filter((each) => each.open)"
        ".map((each) => each.querySelector('h2').textContent)"
    )
    assert "Gates" in page.run(script)
    assert "History" not in page.run(script)
    page.run("document.querySelector('.panel:has(.moves) > summary').click()")
    page.run("document.getElementById('refresh').click()")
    page.press("/")
    page.press(QUERY, "ENTER")
    page.wait_for(".hit")
    assert {"Gates", "History"} <= set(page.run(script))
