"""Items on the page: their details, images and marked words, and the tab that browses and changes them."""

import json

from tests.helpers.serving.browser import Browser
from tests.helpers.waiting import wait_until
from tests.serving.gateway.playground.conftest import (
    HOSTILE,
    HOSTILE_ITEM,
    IN_A_BROWSER,
    PICTURED_ITEM,
    QUERY,
    LiveSite,
    Sites,
    asked,
    give_token,
)

pytestmark = IN_A_BROWSER


def facts(page: Browser, within: str = ".detail") -> dict[str, str]:
    """The facts of an item that is shown, read at once: the page may show another one between two reads."""
    page.wait_for(f"{within} .facts")
    texts = page.texts(f"{within} .facts :is(dt, dd)")
    return dict(zip(texts[::2], texts[1::2], strict=True))


def test_a_click_on_a_hit_shows_the_whole_item_and_another_hides_it(page: Browser, sites: Sites) -> None:
    asked(page, sites.hybrid)
    first = page.ids()[0]
    page.one(".hit .open").click()
    found = facts(page)
    assert found["id"] == first
    assert found["name"] == page.texts(".hit-title")[0]
    assert found["Origin"].startswith("built")
    assert found["Score"] == page.texts(".score")[0]
    assert {"vectors", "words"} <= set(found)
    near = page.texts(".near a")
    assert len(near) == 5 and page.texts(".hit-title")[0] not in near
    assert page.one(".hit .open").get_attribute("aria-expanded") == "true"
    assert not page.all(".edit, .withdraw")  # there is no catalogue
    page.one(".hit .open").click()
    assert not page.all(".detail")
    page.run("document.querySelector('.hit').focus()")
    page.press("ENTER")
    assert facts(page)["id"] == first
    page.one(".near a").click()
    page.wait_for("#found .detail .facts")
    assert page.texts("#found h2")[0] == near[0]


def test_an_item_without_a_catalogue_has_the_fields_that_its_neighbours_lists_show(
    page: Browser, sites: Sites
) -> None:
    page.open(f"{sites.both}#view=items&find={HOSTILE_ITEM}", "#found .facts")
    found = facts(page)
    assert found["id"] == HOSTILE_ITEM
    assert found.get("name") == HOSTILE["name"]
    assert not page.all("main img, main script")


def test_words_of_the_question_are_marked_as_bm25_reads_them(page: Browser, sites: Sites) -> None:
    asked(page, sites.hybrid)
    words = QUERY.split()
    assert page.texts(".hit-title mark")
    assert set(page.texts("mark")) <= set(words)
    page.open(sites.both)
    cases = [
        ("read a CSV file", "pandas.read_csv and readCSV2, but not ready", ["read", "csv", "read"]),
        ("computing the values", "The value computed", ["value", "computed"]),
        ("the", "The end", ["The"]),
        (
            "\N{CJK UNIFIED IDEOGRAPH-6587}\N{CJK UNIFIED IDEOGRAPH-4EF6}",
            "\N{CJK UNIFIED IDEOGRAPH-6587}.",
            1,
        ),
        ("<b>", "<b>bold</b>", ["b", "b"]),
        ("", "nothing", []),
    ]
    for question, text, wanted in cases:
        nodes = page.run(
            "const { marked, wordsOf } = await import('/marks.js');"
            "return marked(arguments[1], wordsOf(arguments[0])).map((each) => each.textContent ?? each)",
            question,
            text,
        )
        assert "".join(nodes) == text
        found = nodes[1::2]
        assert (len(found) if isinstance(wanted, int) else found) == wanted, text


def test_images_are_shown_only_where_the_operator_names_their_field(page: Browser, sites: Sites) -> None:
    link = f"item={PICTURED_ITEM}&k=3"
    page.open(f"{sites.both}#view=items&find={PICTURED_ITEM}", "#found .facts")
    assert facts(page)["section"] == "/icon.svg"
    assert not page.all("main img")
    page.open(f"{sites.images}#view=items&find={PICTURED_ITEM}", "#found .facts")
    assert "section" not in facts(page)
    loaded = "return [...document.images].map((each) => [new URL(each.src).pathname, each.naturalWidth > 0])"
    wait_until(lambda: page.run(loaded) == [["/icon.svg", True]], otherwise=lambda: str(page.run(loaded)))
    asked(page, sites.images, link)
    shown = page.run(
        "const { image } = await import('/hits.js');"
        "const page = { imageField: 'at' };"
        "return arguments[0].map((at) => Boolean(image({ at }, page)))",
        "https://a.example/1 /a/1.JPG?w=2 b.webp data:image/png;a.png js:1.png //a.b/1.png /a.html".split(),
    )
    assert shown == [True, True, True, False, False, False, False]


def test_items_are_found_by_id_and_by_words(page: Browser, sites: Sites) -> None:
    page.open(f"{sites.both}#view=items", "#found .blank")
    page.one("#find").send_keys("item-007")
    page.press("ENTER")
    assert facts(page)["id"] == "item-007"
    assert "find=item-007" in page.driver.current_url
    page.one("#find").clear()
    page.one("#find").send_keys(QUERY)
    page.press("ENTER")
    page.wait_for("#found .hit mark")
    assert not page.all("#found .card")
    page.driver.back()
    assert facts(page)["id"] == "item-007"
    page.open(f"{sites.guarded}#view=items", "#answer .failure")
    page.console_messages()  # of the request without a token


def signed_in(page: Browser, live: LiveSite, role: str, link: str) -> None:
    """Open a link with a token."""
    page.open(f"{live.url}#{link}", ".failure")
    give_token(page, live.tokens.plain[role])


def test_a_writer_edits_withdraws_and_adds_items(page: Browser, live: LiveSite) -> None:
    signed_in(page, live, "writer", "view=items&find=item-007")
    assert facts(page)["Origin"].startswith("built")
    page.one(".edit").click()
    text = page.one(".change textarea")
    given = json.loads(text.get_attribute("value") or "")
    assert list(given["features"]) == ["text"]
    given["features"] |= {"text": "zozozo zozozo xexexe", "price": 2.5, "tags": ["a", "b"], "sale": True}
    given["fields"]["name"] = "A <b>new</b> name"
    page.run("arguments[0].value = arguments[1]", text, json.dumps(given))
    page.one(".change .primary").click()
    wait_until(lambda: facts(page).get("Origin", "").startswith("live"))
    found = facts(page)
    assert found["name"] == "A <b>new</b> name"
    assert (found["price (feature)"], found["tags (feature)"]) == ("2.5", "a,b")
    assert found["Written"].endswith("as change 1")
    page.one(".edit").click()
    page.run("document.querySelector('.change textarea').value = '{\"features\": {\"none\": 1}}'")
    page.one(".change .primary").click()
    page.wait_text(".change .failure-message", "features.none")
    page.one(".withdraw").click()
    page.one(".change .primary").click()
    wait_until(lambda: facts(page).get("Origin") == "withdrawn")
    wait_until(lambda: "299 items" in page.text_of("#served"))
    page.one("#add-item").click()
    page.one(".change input").send_keys("brand-new")
    given = {"features": {"text": "bavuti"}, "fields": {"name": "Added"}}
    page.run("document.querySelector('.change textarea').value = arguments[0]", json.dumps(given))
    page.one(".change .primary").click()
    wait_until(lambda: facts(page).get("id") == "brand-new")
    wait_until(lambda: "300 items" in page.text_of("#served"))
    page.one("#add-item").click()
    page.one(".change input").send_keys("item-008")  # which exists
    page.run("document.querySelector('.change textarea').value = arguments[0]", json.dumps(given))
    page.one(".change .primary").click()
    page.wait_text(".change .failure-message", "WRITE_EXISTS")
    assert {each["source"] for each in page.console_messages()} == {"network"}  # of refused requests


def test_a_reader_sees_items_and_cannot_change_them(page: Browser, live: LiveSite) -> None:
    signed_in(page, live, "reader", "view=items&find=item-007")
    assert facts(page)["Origin"] == "built or live; only tokens with the role writer can tell"
    assert not page.all(".edit, .withdraw")
    assert not page.one("#add-item").is_displayed()
    page.one("#find").clear()
    page.one("#find").send_keys("no-such-item")
    page.press("ENTER")
    page.wait_for("#found .hit")
    wait_until(lambda: not page.all("#found .card"))
    assert page.all("#found .hit")
    assert {each["source"] for each in page.console_messages()} == {"network"}


def test_the_weak_answer_and_the_reference_score_of_a_service_are_shown(page: Browser, sites: Sites) -> None:
    asked(page, sites.both)
    share = (
        "const { answerView } = await import('/answer.js');"
        "const { ItemsSeen } = await import('/items_seen.js');"
        "const [weak, reference] = arguments;"
        "const hits = [{ id: 'a', score: 0.4, fields: {} }];"
        "const bundles = [{ bundle_version: 'x', score_reference: 8 },"
        " { bundle_version: 'canary', score_reference: reference }];"
        "const state = reference ? { bundles } : {};"
        "const info = { manifest: {}, state };"
        "const question = { mode: 'text', conditions: [], exclude: [] };"
        "const shown = { question, request: {}, stages: {}, trips: [] };"
        "const page = { info, items: new ItemsSeen(info), marks: new Set() };"
        "const view = answerView({ hits, weak, bundle_version: 'canary' }, shown, page);"
        "const bar = view.querySelector('.score-bar').style.getPropertyValue('--share');"
        "return [bar, view.querySelector('.weak')?.textContent ?? '']"
    )
    assert page.run(share, False, 0.8) == ["0.5", ""]
    assert page.run(share, True, 0) == ["1", page.run(share, True, 0.2)[1]]
    assert "Nothing matches" in page.run(share, True, 0.2)[1]
    assert page.run(share, True, 0.2)[0] == "1"
