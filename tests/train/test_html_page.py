"""A page as one HTML file: its plots are in it, and nothing else is loaded."""

import base64
import re

from twinspire.train import markdown
from twinspire.train.html_page import html_page

PNG = b"\x89PNG\r\n\x1a\n rest"


def test_a_page_holds_its_plots_and_colours_outcomes() -> None:
    rows = [["shop", "pass"], ["latency", "**refuse**"], ["x", "not measured"]]
    table = markdown.table(["gate", "outcome"], rows, "ll")
    found = html_page(f"# shop\n\n{table}\n\n![Curve](curve.png)\n", {"curve.png": PNG})
    assert "<title>shop</title>" in found
    assert f'<img src="data:image/png;base64,{base64.b64encode(PNG).decode()}" alt="Curve"' in found
    assert re.findall(r'<td style="text-align:left" class="(\w+)">', found) == ["pass", "refuse", "unknown"]
    assert "default-src 'none'" in found
    assert "<script" not in found
    assert not re.findall(r'(?:src|href)="(?!data:)', found)
