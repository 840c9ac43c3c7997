"""Docstrings become items whose texts do not contain their queries."""

import io
import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from rich.console import Console

from twinspire.train.data.docstrings import scan
from twinspire.train.data.source import Tables
from twinspire.train.data.sources import pydocs
from twinspire.train.data.sources.pydocs import PydocsSource, split_docstring

FILES = {
    "shapes/__init__.py": """
        from ._round import Circle, helper
        from .measure import area
        __all__ = ["Circle"]
        __all__ += ["area"]
    """,
    "shapes/_round.py": """
        def helper():
            '''Help with something unsaid. It is never passed on to anyone.'''
        class Circle:
            '''A round thing with a radius.

            All its points are equally far from the centre.
            '''
            def toPolygon(self, corners):
                '''Approximate the circle by corners. The more there are, the better it fits.'''
            def _private(self):
                '''Nobody should read about this. It is an inner matter of the class.'''
    """,
    "shapes/measure.py": """
        try:
            import fast
        except ImportError:
            def area(shape):
                '''Measure the area of a shape. Holes in the shape are subtracted from it.'''
        def short(shape):
            '''Too short. The query of this one has only two words in it.'''
        def terse(shape):
            '''There is nothing but one sentence here.'''
        def echo(shape):
            '''Repeat what was said. To REPEAT  what was said is no news, and is cut out.'''
        def torn(shape):
            '''Count the corner of each. It can count the corner of eachother, which cannot go.'''
        class Ruler:
            def measure(self, shape):
                '''Read the length off the ruler. A ruler does not say what it is itself.'''
        def girth(shape):
            '''Measure the length of the boundary. Inner boundaries are counted as well.'''
        def perimeter(shape):
            '''Measure the Length of  the boundary. Inner boundaries are counted as well.'''
    """,
    "shapes/broken.py": "def (:",
    "shapes/made_pb2.py": "def made():\n  '''Made by a generator of code. Nobody wrote it by hand.'''",
    "shapes/tests/cases.py": "def case():\n  '''Check that a case holds. It is a test and no more.'''",
    "shapes/_vendor/copy.py": "def lent():\n  '''Lent by another package. It is a copy and no more.'''",
    "shapes/vendored/copy.py": "def lent():\n  '''Lent by another package. It is a copy, no more.'''",
    "test_shapes.py": "def check():\n  '''Check that shapes are shapes. It is a test and no more.'''",
    "a-1.0.dist-info/x.py": "def no():\n  '''Not a module of anything. It is only metadata.'''",
}


def write_files(folder: Path) -> None:
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    write_files(tmp_path)
    return pydocs.read(Console(file=io.StringIO()), [tmp_path])


def rows(tables: Tables) -> dict[str, dict[str, Any]]:
    """Item id -> the item and its pair as one row."""
    pairs = tables.pairs.collect().rows(named=True)
    items = tables.items.rows(named=True)
    return {items[pair["item_row"]]["item_id"]: {**items[pair["item_row"]], **pair} for pair in pairs}


def test_items_are_public_and_have_the_name_that_users_import(tables: Tables) -> None:
    assert set(tables.items["item_id"]) == {
        "shapes.Circle",
        "shapes.Circle.toPolygon",
        "shapes.area",
        "shapes.measure.echo",
        "shapes.measure.Ruler.measure",
        "shapes.measure.girth",
    }


def test_the_first_sentence_is_the_query_and_only_the_served_text_has_it(tables: Tables) -> None:
    circle = rows(tables)["shapes.Circle"]
    assert circle["query"] == "A round thing with a radius"
    assert circle["text"] == "shapes.Circle All its points are equally far from the centre."
    assert circle["full_text"].startswith("shapes.Circle A round thing with a radius. All its points")
    assert circle["package"] == "shapes"


def test_a_body_that_repeats_the_query_loses_it(tables: Tables) -> None:
    text = rows(tables)["shapes.measure.echo"]["text"]
    assert text == "shapes.measure.echo To is no news, and is cut out."
    assert tables.changed == {"query cut out of the text that repeats it": 1}


def test_a_camel_case_name_is_also_split_into_words(tables: Tables) -> None:
    text = rows(tables)["shapes.Circle.toPolygon"]["text"]
    assert text.startswith("shapes.Circle.toPolygon to Polygon The more")


def test_dropped_docstrings_are_counted(tables: Tables) -> None:
    assert tables.dropped == {
        "docstring of an item already read": 1,
        "file that is not valid Python (SyntaxError)": 1,
        "first sentence of fewer than 3 words": 1,
        "nothing beside the first sentence": 1,
        "private name": 1,
        "text too short, or still with its query, after the query was cut out": 1,
    }


def test_a_file_that_nests_too_deep_for_the_parser_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.py"
    path.write_text("def documented():\n    'Say it.'\n" + "-" * 10_000 + "1\n")
    found = scan(path, "deep")
    assert found.error in ("MemoryError", "RecursionError")
    assert not found.docstrings


@pytest.mark.parametrize(
    ("docstring", "query", "rest"),
    [
        ("Do it\nover two lines. Rest.", "Do it over two lines", "Rest."),
        ("Take e.g. Paris. Go there.", "Take e.g. Paris", "Go there."),
        ("No full stop\n\nA paragraph.", "No full stop", "A paragraph."),
        ("No full stop\n:param x: a number", "No full stop", ":param x: a number"),
        ("No full stop\nParameters\n----------\nx : int", "No full stop", "Parameters x : int"),
        ("f(x, y) -> z\n\nAdd x to y. Done.", "Add x to y", "f(x, y) -> z Done."),
        ("これは文です。次の文。", "これは文です", "次の文。"),
    ],
)
def test_where_the_first_sentence_ends(docstring: str, query: str, rest: str) -> None:
    assert split_docstring(docstring) == (query, rest)


def test_the_identity_is_that_of_the_files_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path)
    monkeypatch.setattr(pydocs, "roots", lambda: (tmp_path,))
    source = PydocsSource(Console(file=io.StringIO()))
    known = source.identity()
    assert len(known) == 64
    (tmp_path / "test_shapes.py").write_text("# no file that is read")
    (tmp_path / "dangling.py").symlink_to("nowhere")
    (tmp_path / os.fsdecode(b"latin-\xe9.py")).touch()
    with_others = source.identity()
    (tmp_path / "dangling.py").unlink()
    (tmp_path / os.fsdecode(b"latin-\xe9.py")).unlink()
    assert source.identity() == known != with_others
    path = tmp_path / "shapes/measure.py"
    path.write_text(path.read_text().replace("Inner boundaries", "Outer boundaries"))
    edited = source.identity()
    path.rename(tmp_path / "shapes/size.py")
    assert len({known, edited, source.identity()}) == 3
