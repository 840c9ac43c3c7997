"""A browser, and gateways in front of services with bundles of several kinds."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.serving import browser
from tests.helpers.serving.browser import DESKTOP, Browser
from tests.helpers.serving.cataloguing import catalogue_service
from tests.helpers.serving.gateways import gateway
from tests.helpers.serving.token_files import Tokens
from tests.helpers.tiny import FILTERS, tiny_bundle, watched_bundle
from twinspire.protos import bundle
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tokens import TokenFile
from twinspire.serving.server import RetrievalServer

MISSING = browser.missing()
IN_A_BROWSER = [pytest.mark.exhaustive, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
QUERY = "bavuti xelike mopy"
HOSTILE_ITEM = "item-280"  # the second hit of the query
PICTURED_ITEM = "item-250"
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
        images: URL of a gateway in front of the champion that shows its field `section` as images.
    """

    both: str
    champion: str
    guarded: str
    tokens: Tokens
    stoppable_url: str
    stoppable_server: RetrievalServer
    hybrid: str
    images: str


def hostile(folder: Path) -> None:
    """Give an item of a bundle display fields that are markup, and another one the path of an image."""
    path = folder / bundle.ITEMS
    table = json.loads(path.read_text())
    for name, text in HOSTILE.items():
        table["fields"][name][table["ids"].index(HOSTILE_ITEM)] = text
    table["fields"]["section"][table["ids"].index(PICTURED_ITEM)] = "/icon.svg"
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

        def site(server: RetrievalServer, **options: Any) -> str:
            running = stack.enter_context(gateway(server.address, **options))
            return f"http://127.0.0.1:{running.port}/"

        yield Sites(
            both=site(one, compare_address=other.address),
            champion=one.address,
            guarded=site(guarded),
            tokens=tokens,
            stoppable_url=site(stoppable_server),
            stoppable_server=stoppable_server,
            hybrid=site(words),
            images=site(one, image_field="section"),
        )


@dataclass(frozen=True)
class LiveSite:
    """A gateway in front of a service that takes writes: its URL, and the tokens of the service."""

    url: str
    tokens: Tokens


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveSite]:
    """A service with a catalogue and tokens, and a gateway in front of it."""
    tokens = Tokens(tmp_path / "tokens.toml")
    folder, url = tiny_bundle(tmp_path, filters=FILTERS), f"sqlite:///{tmp_path}/items.db"
    flags = ("--tokens", str(tokens.path))
    with (
        catalogue_service(folder, url, tmp_path / "service", *flags) as service,
        gateway(service.address) as running,
    ):
        yield LiveSite(f"http://127.0.0.1:{running.port}/", tokens)


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


def give_token(page: Browser, token: str) -> None:
    """Enter a token by the button at the top of the page."""
    page.one("#token-button").click()
    page.one("#token-input").send_keys(token)
    page.press("ENTER")


def microseconds(text: str) -> float:
    """Of a duration as the page writes it."""
    number, unit = text.split()
    return float(number.replace(",", "")) * {"µs": 1, "ms": 1e3, "s": 1e6}[unit]
