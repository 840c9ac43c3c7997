"""The files that browsers get: the playground at `/`, and the page of the API at `/docs`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

HERE = Path(__file__).parent
# Not from the system's table of types, which may lack some; browsers run no module with a wrong type.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
# Nothing comes from elsewhere but images, if allowed; no page holds script or style, or is framed.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{images}; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {  # of each page
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
COMMON_HEADERS = (("x-content-type-options", "nosniff"),)  # in every answer; a header costs 12 us


@dataclass(frozen=True)
class Page:
    """A file as it is served."""

    content: bytes
    media_type: str
    tag: str  # changes with the content
    policy: str  # of content security

    async def answer(self, request: Request) -> Response:
        """The file, or status 304 where the browser's copy is the same."""
        headers = {**HEADERS, "etag": self.tag, "cache-control": "no-cache"}
        headers["content-security-policy"] = self.policy
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, 200, {**headers, "content-type": self.media_type})


def read_pages(folder: Path, prefix: str, shows_images: bool = False) -> dict[str, Page]:
    """All files of a folder by the paths under which they are served.

    They are read once, so that no path of a request ever becomes that of a file. `index.html` is served under
    the prefix instead, so that its relative links have one base.

    Args:
        folder: with the files; those of other types than `TYPES` are left out.
        prefix: of the paths, such as `/`.
        shows_images: whether the pages may load images from other hosts.
    """
    policy = POLICY.format(images=" https: http:" if shows_images else "")
    pages = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix not in TYPES or not file.is_file():
            continue
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        page = Page(content, TYPES[file.suffix], tag, policy)
        pages[f"{prefix.rstrip('/')}/{file.relative_to(folder).as_posix()}"] = page
    index = f"{prefix.rstrip('/')}/index.html"
    if index in pages:
        pages[prefix] = pages.pop(index)
    return pages
