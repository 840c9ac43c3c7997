"""Users on the page: their events, the answers without and with them, and the buttons that record one."""

from collections.abc import Iterator

import pytest

from tests.helpers.serving.browser import Browser
from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service
from tests.helpers.serving.gateways import gateway
from tests.helpers.tiny import FILTERS, watched_bundle
from tests.serving.gateway.playground.conftest import HOSTILE_ITEM, IN_A_BROWSER, Sites, resealed
from twinspire.serving.client import Event

pytestmark = IN_A_BROWSER

HOSTILE_TYPE = "<img src=x onerror=\"document.title='owned'\">"
WITH, WITHOUT = ".side.challenger .hit", ".side.champion .hit"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CatalogueService, str]]:
    """A service with events and a served log, and the URL of a gateway in front of it."""
    folder = tmp_path_factory.mktemp("users")
    types = {"click": 1, "dislike": -1}
    dataset = {"kind": "tiny", "items": 300, "repeats": "keep", "events": {"types": types}}
    bundle = resealed(watched_bundle(folder, dataset=dataset, filters=FILTERS), folder)
    log = ("--served-log", str(folder / "log"), "--served-log-share", "0.5", "--explore-share", "0.001")
    url = f"sqlite:///{folder}/events.db"
    with (
        catalogue_service(bundle, url, folder / "service", *log, store="--events") as service,
        gateway(service.address) as running,
    ):
        yield service, f"http://127.0.0.1:{running.port}/"


def opened(page: Browser, url: str, user: str) -> None:
    """Ask by the history of a user."""
    page.open(f"{url}#history=&user={user}", ".comparison")


def press(page: Browser, selector: str, kind: str) -> None:
    """Press the button of a hit that records an event of a type."""
    page.run(
        "[...document.querySelector(arguments[0]).querySelectorAll('.event')]"
        ".find((each) => each.textContent === arguments[1]).click()",
        selector,
        kind,
    )


def test_an_event_is_recorded_by_a_button_and_changes_the_answer_at_once(
    page: Browser, recording: tuple[CatalogueService, str]
) -> None:
    service, url = recording
    opened(page, url, "u7")
    assert page.texts(".answer-head h2") == ["Without and with the user"]
    assert page.texts(".side h2") == ["Without the user", "With the user"]
    assert "None yet" in page.text_of(".panel")
    before = page.ids(WITH)
    assert before == page.ids(WITHOUT)
    third = before[2]
    press(page, f'{WITH}[data-id="{third}"]', "dislike")
    page.wait_for(".events li")
    assert third not in page.ids(WITH)
    assert third in page.ids(WITHOUT)
    assert page.texts(f'{WITHOUT}[data-id="{third}"] .badge')[0].startswith("gone")
    assert page.texts(".events .event-type") == ["dislike"]
    assert page.texts(".events .badge") == ["excludes the item"]
    assert page.texts(".events .event-fields span") != []
    assert " ago" in page.text_of(".events time")
    with service.client() as client:
        (event,) = client.list_events("u7")
    assert (event.item_id, event.type, event.position) == (third, "dislike", 3)
    assert event.request_id
    first = page.ids(WITH)[0]
    press(page, f'{WITH}[data-id="{first}"]', "click")
    page.wait_text(".events", "in the history")
    assert page.texts(".events .badge") == ["in the history", "excludes the item"]
    assert page.ids(WITH) != page.ids(WITHOUT)
    assert page.texts(".tile.added strong") != ["0"]


def test_a_user_is_typed_and_kept_in_the_link(page: Browser, recording: tuple[CatalogueService, str]) -> None:
    _, url = recording
    page.open(f"{url}#history=", ".hit, .blank")
    page.run("document.getElementById('more').open = true")
    page.fill("#user-key", "u8")
    page.press("ENTER")
    page.wait_for(".comparison")
    assert "user=u8" in page.run("return location.hash")


def test_an_event_is_of_the_user_whose_answer_is_shown(
    page: Browser, recording: tuple[CatalogueService, str]
) -> None:
    service, url = recording
    opened(page, url, "u11")
    page.run("document.getElementById('more').open = true")
    page.one("#user-key").send_keys("0")  # typed, and not asked
    press(page, f"{WITH}:nth-child(1)", "click")
    page.wait_text("main", "Events of u110")  # the question as it stands
    with service.client() as client:
        assert len(client.list_events("u11")) == 1
        assert client.list_events("u110") == []


def test_events_in_quick_succession_are_all_shown(
    page: Browser, recording: tuple[CatalogueService, str]
) -> None:
    _, url = recording
    opened(page, url, "u12")
    # The second event is recorded while the question after the first one is under way.
    page.run(
        "const ask = window.fetch, wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));"
        "let recorded = 0;"
        "window.fetch = async (url, options) => {"
        "  const isRecord = url.pathname.endsWith('events:record');"
        "  if (isRecord && recorded++) await wait(300);"
        "  const answer = await ask(url, options);"
        "  if (!isRecord) await wait(1000);"
        "  return answer;"
        "};"
    )
    press(page, f"{WITH}:nth-child(1)", "click")
    press(page, f"{WITH}:nth-child(2)", "click")
    page.wait_for(".events li:nth-child(2)")


def test_what_events_hold_is_text(page: Browser, recording: tuple[CatalogueService, str]) -> None:
    service, url = recording
    with service.client() as client:
        client.record(
            [
                Event("<b>u9</b>", HOSTILE_ITEM, HOSTILE_TYPE, value=2.5, time=1e12),
                Event("<b>u9</b>", "<script>document.title='owned'</script>", "click"),
            ]
        )
    opened(page, url, "%3Cb%3Eu9%3C%2Fb%3E")
    page.wait_for(".events li:nth-child(2)")
    assert "Events of <b>u9</b>" in page.text()
    assert f"{HOSTILE_TYPE} 2.50" in page.texts(".event-type")
    assert "does not count" in page.texts(".events .badge")
    assert not page.all("main b, main img, main script")
    assert "owned" not in page.driver.title


def test_a_service_without_events_offers_no_user(page: Browser, sites: Sites) -> None:
    page.open(f"{sites.both}#text=bavuti&user=u7")
    assert not page.all("#user input, .comparison, .event")
