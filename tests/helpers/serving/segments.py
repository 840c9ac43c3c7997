"""Segments of a catalogue or of filter columns alone, without vectors."""

from typing import Any, cast

from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.serving.filters.columns import FilterColumns
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.items import Items
from twinspire.serving.segments.searcher import Searcher


def segment_of(catalogue: Any, columns: FilterColumns | None = None) -> BuiltSegment:
    """A built segment of a catalogue, or of what takes its place in a test."""
    manifest = tiny_manifest(max(1, len(catalogue.ids)), TinyTower())
    return BuiltSegment(manifest, cast(Any, None), catalogue, columns)


def items_of(catalogue: Any) -> Items:
    """The items of a catalogue alone."""
    return Items(Searcher(segment_of(catalogue)))
