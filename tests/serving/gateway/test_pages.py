"""The pages: nothing from elsewhere, right types, and all of them in the wheel."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.helpers.rendered import html_elements
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


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.suffix == ".html"],
    ids=lambda file: f"{file.parent.name}/{file.name}",
)
def test_a_page_needs_nothing_from_elsewhere_and_nothing_inline(file: Path) -> None:
    for tag, attributes in html_elements(file.read_text()):
        given = dict(attributes)
        assert not [name for name in given if name == "style" or name.startswith("on")], tag
        assert not [name for name in ("src", "href") if re.match(r"(?:\w+:)?/", given.get(name) or "")], tag
        assert tag != "style" and (tag != "script" or "src" in given)


def test_every_file_is_served_and_in_the_wheel() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for file in FILES:
        assert file.suffix in TYPES, file
        name = file.relative_to(HERE).as_posix()
        assert any(
            fnmatch(name, pattern.replace("**/", "*")) for pattern in data["twinspire.serving.gateway"]
        ), name
