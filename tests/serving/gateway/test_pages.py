"""The pages: nothing from elsewhere, right types, and all of them in the wheel."""

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers.serving.gateways import RunningGateway
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.serving.conftest import ROOT
from twinspire.serving.gateway.pages import HERE, TYPES, read_pages
from twinspire.serving.server import RetrievalServer

FILES = sorted(file for name in ("playground", "docs") for file in (HERE / name).rglob("*") if file.is_file())


def test_the_pages_are_served_under_a_strict_policy(gateway: RunningGateway) -> None:
    for path, kind in (("/", "text/html"), ("/docs", "text/html"), ("/docs/docs.js", "text/javascript")):
        answer = gateway.ask(path)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "http" not in policy
    assert gateway.ask("/readyz").headers["x-content-type-options"] == "nosniff"


def test_images_from_elsewhere_are_allowed_only_where_their_field_is_named(server: RetrievalServer) -> None:
    with run_gateway(server.address, image_field="section") as showing:
        assert "img-src 'self' data: https: http:;" in showing.ask("/").headers["content-security-policy"]
        assert "http" not in showing.ask("/docs").headers["content-security-policy"]
        assert showing.ask("/v1/gateway").document["image_field"] == "section"


def test_a_page_that_has_not_changed_is_not_sent_again(gateway: RunningGateway) -> None:
    first = gateway.ask("/docs/docs.css")
    again = gateway.ask("/docs/docs.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/../pages.py", "/docs/../../pages.py", "/%2e%2e/pages.py", "/docs/%2e%2e%2fpages.py", "//etc/passwd"],
)
def test_no_path_leads_out_of_the_folders(gateway: RunningGateway, path: str) -> None:
    assert gateway.ask(path).error[0] == 404


def test_only_files_of_known_types_are_served(tmp_path: Path) -> None:
    for name in ("index.html", "part/a.js", "secret.pem", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert set(read_pages(tmp_path, "/")) == {"/", "/part/a.js"}
    assert set(read_pages(tmp_path, "/docs")) == {"/docs", "/docs/part/a.js"}


class Elsewhere(HTMLParser):
    """Finds what a strict policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "style" or name.startswith("on"):
                self.found.append(f"{tag} {name}")
            if name in ("src", "href") and re.match(r"(?:\w+:)?/", value or ""):
                self.found.append(f"{tag} {value}")
        if tag == "style" or (tag == "script" and "src" not in dict(attributes)):
            self.found.append(tag)


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.suffix == ".html"],
    ids=lambda file: f"{file.parent.name}/{file.name}",
)
def test_a_page_needs_nothing_from_elsewhere_and_nothing_inline(file: Path) -> None:
    parser = Elsewhere()
    parser.feed(file.read_text())
    assert parser.found == []


def test_every_file_is_served_and_in_the_wheel() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for file in FILES:
        assert file.suffix in TYPES, file
        name = file.relative_to(HERE).as_posix()
        assert any(
            fnmatch(name, pattern.replace("**/", "*")) for pattern in data["twinspire.serving.gateway"]
        ), name


@pytest.mark.exhaustive
def test_a_browser_shows_the_page_of_the_api(gateway: RunningGateway, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    shown = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            f"http://127.0.0.1:{gateway.port}/docs",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    for text in ("/v1/search:batch", "SearchResponse", "The k items nearest to one query.", "curl -X POST"):
        assert text in shown.stdout
