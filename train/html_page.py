"""A Markdown page as one HTML file that holds its plots, for people who read it in a browser.

MLflow shows such a file among a run's artefacts; it would not find plots beside it. The Markdown is rendered
by markdown-it with HTML switched off, so that text from outside stays text, and the page's security policy
allows neither scripts nor anything from elsewhere.
"""

import base64
import html
from collections.abc import Mapping
from itertools import pairwise

from markdown_it import MarkdownIt

OUTCOMES = {"pass": "pass", "**refuse**": "refuse", "not measured": "unknown"}  # text of a cell -> its class

STYLE = """
:root { color-scheme: light dark; --text: #1d2129; --quiet: #5b6270; --line: #dfe3e8; --back: #fff;
  --pass: #18703c; --refuse: #b3261e; --stripe: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ec; --quiet: #a3aab6; --line: #3a404a;
  --back: #16191f; --pass: #62c98b; --refuse: #ff8a80; --stripe: #1d2129; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 0 auto;
  padding: 24px; max-width: 1080px; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 32px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td + td { overflow-wrap: anywhere; }
[style="text-align:right"] { white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; }
tbody tr:nth-child(even) { background: var(--stripe); }
td.pass { color: var(--pass); font-weight: 600; } td.refuse { color: var(--refuse); }
td.unknown { color: var(--quiet); }
img { max-width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
code { font-size: 13px; }
"""


def html_page(markdown: str, pictures: Mapping[str, bytes]) -> str:
    """Render a page.

    Args:
        markdown: of this project; its first heading is the title.
        pictures: name in the Markdown -> content of the PNG file.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(markdown)
    for opening, inline in pairwise(tokens):
        if opening.type == "td_open" and inline.content in OUTCOMES:
            opening.attrJoin("class", OUTCOMES[inline.content])
    for child in (child for token in tokens for child in token.children or ()):
        content = pictures.get(str(child.attrGet("src"))) if child.type == "image" else None
        if content is not None:  # a picture that is not there is left as it is
            child.attrSet("src", f"data:image/png;base64,{base64.b64encode(content).decode()}")
    title = next((token.content for token in tokens if token.type == "inline"), "")
    body = parser.renderer.render(tokens, parser.options, {})
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(html.unescape(title))}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )
