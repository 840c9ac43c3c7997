"""Segments of a catalogue or of filter columns alone, without vectors."""

from typing import Any, cast

from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.serving.filters.columns import FilterColumns
from twinspire.serving.segments.built import BuiltSegment


class OtherItems:
    """The catalogue of a bundle with some items that no test names.

    Args:
        count: of them.
    """

    def __init__(self, count: int = 0) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def find(self, item_id: str) -> None:
        return None


def segment_of(catalogue: Any, columns: FilterColumns | None = None) -> BuiltSegment:
    """A built segment of a catalogue, or of what takes its place in a test."""
    manifest = tiny_manifest(max(1, len(catalogue)), TinyTower())
    return BuiltSegment(manifest, cast(Any, None), catalogue, columns)
