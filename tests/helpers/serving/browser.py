"""A real Chromium without a window."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.common.options import PageLoadStrategy
from selenium.webdriver.remote.command import Command
from selenium.webdriver.remote.webelement import WebElement

from tests.helpers.waiting import wait_until

CHROMIUM = shutil.which("chromium") or ""
DRIVER = shutil.which("chromedriver") or ""
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which needs another user than root, and tests load nothing but this project's own page
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--lang=en",
)
DESKTOP, PHONE = (1280, 900), (390, 844)
PATIENCE_SECONDS = 20.0


def missing() -> str:
    """Why there is no browser to test with; empty where there is one."""
    lacking = [name for name, path in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if not path]
    return f"{' and '.join(lacking)} not installed (Debian: chromium, chromium-driver)" if lacking else ""


class Browser:
    """A browser, and what tests do with a page in it.

    Args:
        driver: of Selenium.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, ready: str = ".hit, .blank, .failure") -> None:
        """Load a page anew, and wait until it shows an answer, or what stands there without one."""
        self.driver.get("about:blank")  # a URL that differs after "#" alone loads nothing
        self.driver.get(url)
        self.wait_for(ready)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns in the page; it may wait."""
        return self.driver.execute_script(f"return (async () => {{ {script} }})()", *arguments)

    def all(self, selector: str) -> list[WebElement]:
        found: list[WebElement] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> WebElement:
        """The first element that a selector finds, as soon as there is one."""
        return wait_until(lambda: self.all(selector), PATIENCE_SECONDS, self.text)[0]

    def wait_for(self, selector: str) -> None:
        """Wait until a selector finds something and no question is being asked."""
        script = "return !!document.querySelector(arguments[0]) && !document.querySelector('[aria-busy]')"
        wait_until(lambda: self.driver.execute_script(script, selector), PATIENCE_SECONDS, self.text)

    def wait_text(self, selector: str, text: str) -> None:
        """Wait until an element's text contains another."""

        def shows() -> bool:
            try:
                return any(text in each.text for each in self.all(selector))
            except StaleElementReferenceException:
                return False

        wait_until(shows, PATIENCE_SECONDS, lambda: f"{selector} never said {text!r}: {self.text()}")

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def text_of(self, selector: str) -> str:
        """The text of the first element that a selector finds, also where it is for screen readers alone."""
        return str(
            self.driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)
        )

    def wait_changed(self, ids: list[str], selector: str = ".hit") -> None:
        """Wait until the hits are others than these."""
        self.wait_for(selector)
        wait_until(lambda: self.ids(selector) != ids, PATIENCE_SECONDS, self.text)

    def wait_ids(self, ids: list[str], selector: str = ".hit") -> None:
        wait_until(
            lambda: self.ids(selector) == ids, PATIENCE_SECONDS, lambda: f"{self.ids(selector)}, not {ids}"
        )

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText.trim())"
        return list(self.driver.execute_script(script, selector))

    def ids(self, selector: str = ".hit") -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.dataset.id)"
        return list(self.driver.execute_script(script, selector))

    def press(self, *keys: str) -> None:
        """Press keys one after another, wherever the focus is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(getattr(Keys, key, key))

    def focused(self) -> str:
        """What identifies the element with the focus: its id, or the id of its hit."""
        script = "const here = document.activeElement; return here.id || here.dataset.id || here.tagName"
        return str(self.driver.execute_script(script))

    def choose(self, label: str, value: str) -> None:
        """Choose an option of the list with an accessible name."""
        self.one(f'select[aria-label="{label}"] option[value="{value}"]').click()

    def fill(self, selector: str, text: str) -> None:
        """Replace the text of an input, and leave it."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text, Keys.TAB)

    def resize(self, size: tuple[int, int]) -> None:
        """Make the page as large as another screen."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Let the system prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def console_messages(self) -> list[dict[str, Any]]:
        """What the console has said since the last call, warnings and broken policies included."""
        return list(self.driver.execute(Command.GET_LOG, {"type": "browser"})["value"])


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with a profile of its own, for as long as the block lasts."""
    options = Options()
    options.binary_location = CHROMIUM
    options.page_load_strategy = PageLoadStrategy.eager
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
