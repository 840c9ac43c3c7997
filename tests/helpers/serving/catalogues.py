"""Catalogues of whatever items JSON can hold."""

import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import bundle
from twinspire.serving.segments.catalogue import Catalogue

NAMES = ("name", "größe", "日")
texts = st.one_of(st.text(max_size=20), st.text(min_size=120, max_size=140), st.just("a" * 20_000))


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """A catalogue of up to eight items whose ids and fields may be anything that JSON can hold as a text."""
    ids = draw(st.lists(texts, min_size=1, max_size=8, unique=True))
    names = NAMES[: draw(st.integers(0, len(NAMES)))]
    column = st.lists(st.none() | texts, min_size=len(ids), max_size=len(ids))
    popularity = draw(st.lists(st.sampled_from((0.0, 0.1, 0.5)), min_size=len(ids), max_size=len(ids)))
    table = {"ids": ids, "popularity": popularity, "fields": {name: draw(column) for name in names}}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / bundle.ITEMS).write_text(json.dumps(table))
        return Catalogue(Path(folder), tiny_manifest(len(ids), TinyTower(), display_fields=names))
