"""A browser, and gateways in front of services with bundles of several kinds."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.serving import browser
from tests.helpers.serving.browser import DESKTOP, Browser
from tests.helpers.serving.gateways import gateway
from tests.helpers.serving.token_files import Tokens
from tests.helpers.tiny import FILTERS, tiny_bundle, watched_bundle
from twinspire.protos import bundle
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.access import Access
from twinspire.serving.security.tokens import TokenFile
from twinspire.serving.server import RetrievalServer

QUERY = "bavuti xelike mopy"
HOSTILE_ITEM = "item-280"  # the second hit of the query
HOSTILE = {
    "name": "<img src=x onerror=\"document.title='owned';console.error('a-name-ran-as-a-script')\">",
    "section": "</dd><script>document.title='owned'</script>",
}


class Sites(NamedTuple):
    """The URLs and services that the tests open.

    Args:
        both: URL of a gateway in front of champion and challenger, whose queries are texts.
        champion: address of the champion's service.
        guarded: URL of a gateway in front of a service with tokens, whose queries are histories.
        tokens: of the latter.
        stoppable_url: URL of a gateway in front of a service that a test may stop.
        stoppable_server: that service.
        hybrid: URL of a gateway in front of a service that ranks by words and vectors.
    """

    both: str
    champion: str
    guarded: str
    tokens: Tokens
    stoppable_url: str
    stoppable_server: RetrievalServer
    hybrid: str


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


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Services, and gateways in front of them."""
    folder = tmp_path_factory.mktemp("playground")
    champion = resealed(tiny_bundle(folder, filters=FILTERS), folder)
    # Has fewer items than the champion: some of the champion's are gone, and others take their ranks.
    challenger = tiny_bundle(folder, 200, filters=FILTERS)
    tokens = Tokens(folder / "tokens.toml")
    with ExitStack() as stack:

        def serve(folder: Path, **others: Any) -> RetrievalServer:
            return stack.enter_context(RetrievalServer(Retriever.load(folder), **others))

        one, other, stoppable_server = serve(champion), serve(challenger), serve(challenger)
        dataset = {"kind": "tiny", "items": 300, "repeats": "first"}
        guarded = serve(watched_bundle(folder, dataset=dataset), access=Access(tokens=TokenFile(tokens.path)))
        words = serve(tiny_bundle(folder, 100, is_hybrid=True))
        both, behind_tokens, stoppable_url, hybrid = (
            stack.enter_context(gateway(server.address, compare_address=compared))
            for server, compared in (
                (one, other.address),
                (guarded, None),
                (stoppable_server, None),
                (words, None),
            )
        )
        gateways = (both, behind_tokens, stoppable_url, hybrid)
        urls = [f"http://127.0.0.1:{each.port}/" for each in gateways]
        yield Sites(urls[0], one.address, urls[1], tokens, urls[2], stoppable_server, *urls[3:])


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with browser.browsing() as found:
        yield found


@pytest.fixture
def page(chromium: Browser) -> Iterator[Browser]:
    """The browser on a desktop's screen; what the console says afterwards fails the test."""
    chromium.resize(DESKTOP)
    chromium.prefer("light")
    chromium.console_messages()
    yield chromium
    said = chromium.console_messages()
    assert not said, said


def asked(page: Browser, url: str, link: str = "") -> None:
    """Open a link of a question, `QUERY` if none is given, and wait for its answer."""
    page.open(f"{url}#{link or f'text={QUERY}'}")


def microseconds(text: str) -> float:
    """Of a duration as the page writes it."""
    number, unit = text.split()
    return float(number.replace(",", "")) * {"µs": 1, "ms": 1e3, "s": 1e6}[unit]
