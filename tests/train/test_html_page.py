"""A page as one HTML file: its plots are in it, and text from outside stays text."""

import base64
import re

import pytest

from tests.helpers.rendered import HOSTILE, html_elements
from twinspire.train import markdown
from twinspire.train.html_page import html_page

PNG = b"\x89PNG\r\n\x1a\n rest"
ROW = "# {0}\n\n{1}\n\n![Curve](curve.png)\n"


def page(text: str) -> str:
    rows = [[text, "pass"], ["latency", "**refuse**"], ["x", "not measured"]]
    return html_page(ROW.format(text, markdown.table(["gate", "outcome"], rows, "ll")), {"curve.png": PNG})


def test_a_page_holds_its_plots_and_colours_outcomes() -> None:
    found = page("shop")
    assert "<title>shop</title>" in found
    assert f'<img src="data:image/png;base64,{base64.b64encode(PNG).decode()}" alt="Curve"' in found
    assert re.findall(r'<td style="text-align:left" class="(\w+)">', found) == ["pass", "refuse", "unknown"]
    assert "default-src 'none'" in found
    assert "<script" not in found
    assert not re.findall(r'(?:src|href)="(?!data:)', found)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_element(text: str) -> None:
    plain = [each for each in html_elements(page(markdown.plain(text))) if each[0] != "code"]
    assert plain == html_elements(page("x"))
