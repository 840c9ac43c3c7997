"""The import graph has no circles, and no file or folder grows too long to read."""

import re
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
STAGES = ("protos", "train", "export", "serving")
LONGEST = 600  # lines
MOST = 22  # modules in one folder
GENERATED = "_pb2"


def test_no_circle_of_imports_between_files() -> None:
    """A package and its own modules included, which the contract "No circles" of import-linter leaves out."""
    # Imports under TYPE_CHECKING count: a circle of types is a circle for the reader.
    graph = grimp.build_graph(*STAGES, exclude_type_checking_imports=False, cache_dir=None)
    edges = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(edges).prepare()  # raises CycleError, which names the circle


def test_no_file_is_longer_than_one_can_read() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _files() if GENERATED not in path.name}
    assert [str(path.relative_to(ROOT)) for path, lines in lengths.items() if lines > LONGEST] == []


def test_no_folder_holds_more_modules_than_one_can_survey() -> None:
    for stage in STAGES:
        for folder in [ROOT / stage, *(path for path in (ROOT / stage).rglob("*") if path.is_dir())]:
            modules = [path for path in folder.glob("*.py") if GENERATED not in path.name]
            assert len(modules) <= MOST, folder


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in _files():
        if GENERATED not in path.name:
            for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.MULTILINE):
                places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def _files() -> Iterable[Path]:
    return (path for stage in STAGES for path in (ROOT / stage).rglob("*.py"))
