"""Hooks of mkdocs: the pages of the site are the Markdown files of the checkout, where they lie.

Notebooks become Markdown. A link to a file that is no page
leads to the repository that `REPOSITORY` names; without one only its text is left.
"""

import json
import posixpath
import re
import subprocess
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NOTEBOOKS = "train/docs/notebooks"
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def anchor(title: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> None:
    """Set the anchors, and a navigation in the order of the stages."""
    config.mdx_configs["toc"]["slugify"] = anchor
    pages = [name for name in [*_files(), *_notebooks()] if name.endswith(".md") and name != "README.md"]
    folders = {"Reference": "train/docs/reference/", "Learn": "train/docs/"}
    folders |= {stage.title(): f"{stage}/" for stage in ("train", "export", "serving", "protos")}
    folders |= {"Project": ""}
    parts = {}
    for title, folder in folders.items():
        inside = [name for name in pages if name.startswith(folder)]
        parts[title] = {title: [{_title(name, folder): name} for name in inside]}
        pages = [name for name in pages if name not in inside]
    in_order = sorted(parts, key=["Learn", *folders].index)
    config.nav = [{"Twinspire": "README.md"}, *(parts[title] for title in in_order)]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the checkout's pages and images, and the notebooks."""
    for name in _files():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for name, text in _notebooks().items():
        files.append(File.generated(config, name, content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to notebooks to their pages, and those to files that are no pages to the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        text, link, fragment = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(folder, link))
        if target.startswith(NOTEBOOKS):
            link = link.replace(".ipynb", ".md")
        elif not files.get_file_from_path(target) and (ROOT / target).exists():
            return f"[{text}]({config.repo_url}/blob/HEAD/{target})" if config.repo_url else text
        return f"[{text}]({link}{fragment})"

    return _LINK.sub(replaced, markdown)


def _files() -> list[str]:
    """The pages, images and styles of the site that git does not ignore; READMEs first in their folder."""
    kinds = ["*.md", "*.png", "train/docs/*.css", ":!mlruns"]
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *kinds]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(names, key=lambda name: (Path(name).parent.parts, not name.endswith("README.md"), name))


@cache
def _notebooks() -> dict[str, str]:
    """Page of each notebook -> its Markdown."""
    notebooks = sorted((ROOT / NOTEBOOKS).glob("*.ipynb"))
    return {f"{NOTEBOOKS}/{path.stem}.md": _notebook(path) for path in notebooks}


def _notebook(path: Path) -> str:
    """A notebook as Markdown; it has no outputs."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.insert(1, f"[Download this notebook](../../../{path.name}) to run it.")
    return "\n\n".join(parts)


def _title(name: str, folder: str) -> str:
    """The title of a page in the navigation: of a README, its folder."""
    path = Path(name.removeprefix(folder))
    if path.stem == "README":
        return str(path.parent) if path.parent.parts else "Overview"
    return path.stem.replace("-", " ").capitalize()
