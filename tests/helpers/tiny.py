"""A tiny bundle, made by hand and without torch: real towers, a real index, a real manifest.

Its items are pseudo-words, and so are the queries of `tiny_bundle`; those of `watched_bundle` are
histories of items and the country that somebody is in.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.helpers.lexical import HYBRID, postings_of_texts
from tests.helpers.tiny_towers import DIMENSION, PLAIN, VOCABULARIES, WATCHED, TinyTower, write_tower
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters, Manifest, Score
from twinspire.protos.drift import DriftReference
from twinspire.protos.features import FeatureSpec, Schema
from twinspire.protos.filter_kinds import FilterKind
from twinspire.protos.filters import build_columns, write_filters
from twinspire.protos.nearest.links import Links, read_hnswlib

INNER_PRODUCT = Score("inner_product")
RETIRED = "item-retired"  # a tower knows it, and no catalogue holds it
FILTERS: Mapping[str, FilterKind] = MappingProxyType(
    {"section": "string", "tags": "strings", "price": "number", "sale": "boolean", "released": "time"}
)
SYLLABLES = ("ba", "ke", "li", "mo", "nu", "py", "ra", "so", "ti", "vu", "xe", "zo")


def tiny_bundle(
    parent: Path,
    items: int = 300,
    query_tower: TinyTower | None = None,
    report: str = "{}\n",
    shares: Sequence[float] = (),
    filters: Mapping[str, FilterKind] = MappingProxyType({}),
    is_hybrid: bool = False,
    priors: Mapping[str, Mapping[int, float]] = MappingProxyType({}),
    drift: DriftReference | None = None,
    **manifest: Any,
) -> Path:
    """Write a tiny bundle into `parent`.

    Args:
        parent: receives the bundle.
        items: N.
        query_tower: another than the plain one.
        shares: popularity of each item; `popularity` by default.
        filters: filter fields, whose values are those of `filter_values`.
        is_hybrid: it has a lexical index of the items' names.
        priors: of this index, as of `postings_of_texts`.
        drift: its reference for drift.
        report: content of `reports/quality.json`, to make two bundles differ.
        manifest: fields of the manifest that shall be something else.
    """
    query_tower = query_tower or TinyTower()
    names, ids = item_names(items), item_ids(items)

    def fill(folder: Path) -> None:
        write_tower(folder / bundle.ITEM_TOWER, TinyTower())
        vectors = encode(folder / bundle.ITEM_TOWER, names)
        write_tower(folder / bundle.QUERY_TOWER, query_tower, known_vectors(vectors))
        np.save(folder / bundle.VECTORS, vectors)
        np.save(folder / bundle.LINKS, build_links(vectors))
        fields = {"name": names, "section": sections(items)}
        table = {"ids": ids, "popularity": list(shares) or popularity(items), "fields": fields}
        (folder / bundle.ITEMS).write_text(json.dumps(table))
        if filters:
            write_filters(folder, build_columns(filters, filter_values(items)))
        if drift is not None:
            drift.write(folder)
        if is_hybrid:
            postings_of_texts(names, HYBRID, priors).write(folder)
        (folder / bundle.REPORTS).mkdir()
        (folder / bundle.REPORTS / "quality.json").write_text(report)

    manifest = {**({"hybrid": HYBRID} if is_hybrid else {}), **manifest}
    made = tiny_manifest(items, query_tower, filters=dict(filters), **manifest)
    return bundle.write(parent, made, fill)


def watched_bundle(
    parent: Path, items: int = 300, features: Mapping[str, FeatureSpec] = WATCHED, **manifest: Any
) -> Path:
    """Write a tiny bundle whose queries are histories; arguments as of `tiny_bundle`."""
    ids = item_ids(items)
    examples: tuple[dict[str, Any], ...] = (
        {"history": ids[1:7], "country": "de"},
        {"history": ids[20:22], "country": None},
        {"history": [], "country": "jp"},
        {"history": [], "country": None},
    )
    shown = tuple({name: each.get(name) for name in features} for each in examples)
    tower = TinyTower(features, unit=False)
    return tiny_bundle(parent, items, tower, **{"score": INNER_PRODUCT, "examples": shown, **manifest})


def tiny_manifest(items: int, query_tower: TinyTower, **changed: Any) -> Manifest:
    """The manifest of a tiny bundle, without its files."""
    query = dict(query_tower.features)
    vocabularies = {f"query.{name}": VOCABULARIES.get(f"query.{name}") for name in query}
    if "history" in query:
        vocabularies["items"] = known_items(items)
    fields: dict[str, Any] = {
        "name": "tiny",
        "run_id": "0" * 32,
        "git_commit": "",
        "dataset": {"kind": "tiny", "items": items},
        "split_hash": "0" * 64,
        "dimension": DIMENSION,
        "count": items,
        "schema": Schema(query, dict(PLAIN), {name: rows for name, rows in vocabularies.items() if rows}),
        # Wide enough to find every item. A narrower search misses some, and which ones depends on rounding.
        "index": IndexParameters(space="ip", m=8, ef_construction=64, ef_search=64, seed=0),
        "display_fields": ("name", "section"),
        "examples": tuple({"text": name} for name in item_names(items)[:20]),
        "quality": {"recall_at_10": 1.0},
        "parity": {"max_abs_diff": 1.3e-07},
        "ann": {"ann_recall_at_10": 1.0},
        "latency": {"query_tower_b1_p50_us": 45.0},
    }
    return Manifest(**{**fields, **changed})


def item_ids(items: int) -> list[str]:
    """`item-000`, `item-001`, and so on."""
    return [f"item-{n:03}" for n in range(items)]


def known_items(items: int) -> tuple[str, ...]:
    """The items that a tower knows, in an order of its own: all but every tenth, and one more."""
    return (RETIRED, *(each for n, each in reversed([*enumerate(item_ids(items))]) if n % 10 > 0))


def known_vectors(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The vectors of `known_items`, given those of all items: float32 (known items, D)."""
    rows = {item_id: vectors[n] for n, item_id in enumerate(item_ids(len(vectors)))}
    retired = np.eye(1, vectors.shape[1], 30, dtype=np.float32)[0]
    return np.stack([rows.get(item_id, retired) for item_id in known_items(len(vectors))])


def popularity(items: int) -> list[float]:
    """Each item's share of the interactions; `item-006` has most, several others as much as it."""
    counts = np.arange(items) * 3 % 19
    return [float(share) for share in counts / counts.sum()]


def item_names(items: int) -> list[str]:
    """Three seeded pseudo-words each, which are also what the item tower reads."""
    drawn = np.random.default_rng(0).integers(0, len(SYLLABLES), (items, 3, 3)).tolist()
    return [" ".join("".join(SYLLABLES[n] for n in word) for word in name) for name in drawn]


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of twelve seeded syllables each, so that few items are alike."""
    drawn = np.random.default_rng(seed).integers(0, len(SYLLABLES), (count, 12)).tolist()
    return ["".join(SYLLABLES[n] for n in each) for each in drawn]


def sections(items: int) -> list[str | None]:
    """A display field that every fifth item lacks."""
    return [None if n % 5 == 0 else f"section {n % 5}" for n in range(items)]


def filter_values(items: int) -> list[dict[str, Any]]:
    """Raw values of the filter fields `FILTERS`; each field is absent from some items."""
    days = datetime(2026, 1, 1, tzinfo=UTC)
    found: list[dict[str, Any]] = []
    for n in range(items):
        values = {
            "section": f"section {n % 4}",
            "tags": [f"tag {tag}" for tag in range(5) if n % (tag + 2) == 0],
            "price": n * 37 % 101 / 2,
            "sale": n % 3 == 0,
            "released": (days + timedelta(hours=n)).isoformat(),
        }
        found.append({name: value for m, (name, value) in enumerate(values.items()) if (n + m) % 7})
    return found


def build_index(vectors: npt.NDArray[np.float32], m: int = 8, ef_construction: int = 64) -> hnswlib.Index:
    """An HNSW graph over vectors, the same byte for byte each time."""
    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(len(vectors), M=m, ef_construction=ef_construction, random_seed=0)
    index.add_items(vectors, np.arange(len(vectors)), num_threads=1)
    return index


def build_links(vectors: npt.NDArray[np.float32], m: int = 8, ef_construction: int = 64) -> Links:
    """The links of `build_index`, as a bundle holds them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph"
        build_index(vectors, m, ef_construction).save_index(str(path))
        return read_hnswlib(path, vectors.shape[1])


def encode(tower: Path, texts: list[str]) -> npt.NDArray[np.float32]:
    """The vectors of texts by a plain tower, float32 (B, D)."""
    session = onnxruntime.InferenceSession(tower, providers=["CPUExecutionProvider"])
    arrays = Schema(dict(PLAIN), dict(PLAIN)).side("item").to_arrays({"text": texts})
    vectors: npt.NDArray[np.float32] = session.run(None, arrays)[0]
    return vectors
