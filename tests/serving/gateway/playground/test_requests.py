"""What the page asks of the gateway, and what it shows where that fails."""

from typing import Any

import pytest

from tests.helpers.serving.browser import Browser
from tests.helpers.waiting import wait_until
from tests.serving.gateway.playground.conftest import (
    IN_A_BROWSER,
    QUERY,
    LiveSite,
    Sites,
    asked,
    give_token,
)
from tests.serving.gateway.playground.test_items import facts

pytestmark = IN_A_BROWSER

# Keeps path and body of each request from now on, and names a bundle in the answers if there is `answering`.
WATCH = """
const ask = window.fetch;
window.seen = [];
window.fetch = async (url, options) => {
  window.seen.push([url.pathname, JSON.parse(options.body ?? "{}")]);
  const response = await ask(url, options);
  if (!window.answering || !url.pathname.endsWith("/search")) return response;
  const answer = { ...(await response.json()), bundle_version: window.answering };
  return new Response(JSON.stringify(answer));
};
"""


def seen(page: Browser, path: str) -> list[Any]:
    """The bodies of the requests to a path."""
    return [body for found, body in page.run("return window.seen") if found == path]


def answered_by(page: Browser, bundle: str, text: str) -> None:
    """Ask a question that a bundle seems to answer."""
    page.run("window.answering = arguments[0]", bundle)
    before = len(seen(page, "/v1/search"))
    page.run("location.hash = arguments[0]", f"text={text}")
    wait_until(lambda: len(seen(page, "/v1/search")) > before)
    page.wait_for(".hit, .blank")


def test_the_status_is_read_once_for_each_bundle_that_answers(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    page.run(WATCH)
    for n, bundle in enumerate(("canary", "canary", "canary", "other", "canary")):
        answered_by(page, bundle, f"{QUERY} {n}")
    wait_until(lambda: len(seen(page, "/v1/info")) == 2)
    answered_by(page, "new", QUERY)
    wait_until(lambda: len(seen(page, "/v1/info")) == 3)


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_whether_a_token_may_write_is_asked_once(page: Browser, live: LiveSite, role: str) -> None:
    page.open(f"{live.url}#view=service", ".failure")
    page.run(WATCH)
    give_token(page, live.tokens.plain[role])
    page.wait_for("#refresh")
    before = page.one("#refresh")
    before.click()
    wait_until(lambda: page.one("#refresh") != before)
    assert len(seen(page, "/v1/items:delete")) == 1
    assert {each["source"] for each in page.console_messages()} == {"network"}  # without a token, and the one


def test_an_item_without_a_catalogue_costs_no_long_search(page: Browser, sites: Sites) -> None:
    page.open(f"{sites.both}#view=items", "#find")
    page.run(WATCH)
    page.run("location.hash = 'view=items&find=item-123'")
    assert facts(page, "#found")["id"] == "item-123"
    assert max(body["k"] for body in seen(page, "/v1/search")) == 50


def test_the_page_of_the_api_shows_its_methods(page: Browser, sites: Sites) -> None:
    page.open(f"{sites.both}docs", "#schemas details")
    for text in ("/v1/search:batch", "SearchResponse", "The k items nearest to one query.", "curl -X POST"):
        assert text in page.driver.page_source
