"""Pages of Markdown as a browser gets them: the elements of the HTML that a renderer makes of them."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></table><h1 onclick='x'>",
    "a | b || c",
    "[click](javascript:alert(1))",
    "![x](http://example.com/x.png)",
    "http://example.com www.example.com a@example.com",
    "<http://example.com>",
    "`code` ``code` \\`",
    "*a* **b** _c_ __d__ ~~e~~",
    "first\n\n# second\n\n- third",
    "```\n<b>x</b>\n```",
    "- list",
    "1. list",
    "> quote",
    "=====",
    "---",
    "&lt;b&gt; &#60;b&#62; &copy;",
    "\\<b> \\",
    "\u202etext\u202c\u2066",
    "\x1b[31m\0\u2028",
    "$x$ <!-- comment",
    "[a]: http://example.com",
)


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", []))


def elements(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Each element and its attributes, in order, where HTML in Markdown is rendered, too."""
    return _parsed(page).found


def shown(page: str) -> str:
    """The text that a reader sees."""
    return "".join(_parsed(page).text)


def _parsed(page: str) -> _Elements:
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser = _Elements()
    parser.feed(renderer.render(page))
    parser.close()
    return parser


def html_elements(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Each element and its attributes of a page that is HTML already."""
    parser = _Elements()
    parser.feed(page)
    return parser.found
