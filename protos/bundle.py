"""The unit of release: one directory with everything that answers a query.

    manifest.json         what this is, what was measured, and the sha256 and size of every other file
    query_tower.onnx      raw query arrays -> unit vectors, preprocessing inside
    item_tower.onnx       the same for items
    vectors.npy           item vectors (N, D), row n belongs to item n; with vector_scales.npy where they are
                          int8 (`vectors.py`)
    index.hnsw            hnswlib graph over the same rows
    items.json            {"ids": [...], "popularity": [...], "fields": {"<display field>": [...]}}
    reports/*             quality, parity, latency and recall in JSON, and their plots

`write` puts a bundle down whole or not at all. `read` checks every byte before it returns anything. The
bundle version is the sha256 of the manifest, which holds the sha256 of everything else.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from protos.config import parse
from protos.errors import BundleDamaged, BundleTooNew, BundleTooOld
from protos.features import Schema

SCHEMA_VERSION = 3

MANIFEST = "manifest.json"
QUERY_TOWER = "query_tower.onnx"
ITEM_TOWER = "item_tower.onnx"
VECTORS = "vectors.npy"
INDEX = "index.hnsw"
ITEMS = "items.json"
REPORTS = "reports"
REQUIRED = (QUERY_TOWER, ITEM_TOWER, VECTORS, INDEX, ITEMS)


@dataclass(frozen=True)
class IndexParameters:
    """How the HNSW graph was built and is searched (Malkov and Yashunin 2018, section 4).

    `space` is hnswlib's name of the metric, always "ip", the inner product. Where scores are not cosines the
    graph holds the items without their last coordinate, which only fills them up to unit length. hnswlib
    does not store `ef_search` in its file, so it travels here. Where `exact` holds, every search
    compares with every item, because that was measured to be no slower, or because the experiment says so;
    the graph is there, and nobody asks it.
    """

    space: str
    m: int
    ef_construction: int
    ef_search: int
    seed: int
    exact: bool = False


@dataclass(frozen=True)
class Score:
    """What the inner product of a query's and an item's vector is shown as.

    Item vectors are of unit length; query vectors are where the kind is `cosine`.

    Args:
        kind: `cosine` and `inner_product` are the product as it is; `sigmoid` is 1 / (1 + e^-(x + bias)).
        bias: of the sigmoid.
    """

    kind: Literal["cosine", "inner_product", "sigmoid"] = "cosine"
    bias: float = 0.0


Variant = Literal["fp32", "fp16_tables", "int8_tables", "int8_dynamic", "int8_static"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Precisions:
    """In how many bits towers and vectors are kept. What is computed from them is float32.

    Args:
        query: the query tower's variant. Its tables are float16 or int8 rows, each with its scale; with
            `int8_dynamic` and `int8_static` they are int8, and dense layers are computed in int8, too.
        item: the item tower's.
        vectors: of the item vectors on the disk.
    """

    query: Variant = "fp32"
    item: Variant = "fp32"
    vectors: Precision = "fp32"


@dataclass(frozen=True)
class FileRecord:
    """What a file of the bundle must be."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle is, where it comes from, and what was measured on it.

    Args:
        name: the registered model's name.
        run_id: the MLflow run that trained the towers.
        git_commit: the commit that the run's code was at, empty outside a checkout.
        dataset: name, counts and texts of the data set.
        split_hash: sha256 over the ids of each part of the split.
        dimension: D.
        count: N, the number of items.
        schema: feature specs and vocabularies.
        index: how the index was built and is searched.
        display_fields: fields that an answer can show beside an id.
        examples: queries from the test split, to try and to warm up with.
        quality: metrics of the served pipeline and of the baselines, on the test split.
        parity: torch against ONNX Runtime.
        ann: recall of the index against exact search over the catalogue.
        latency: of the towers, with thread budget and machine.
        files: path -> sha256 and size of each other file.
        bundle_version: sha256 of this manifest with this field empty.
        score: what an inner product is shown as.
        precision: in how many bits towers and vectors are kept.
    """

    name: str
    run_id: str
    git_commit: str
    dataset: dict[str, Any]
    split_hash: str
    dimension: int
    count: int
    schema: Schema
    index: IndexParameters
    display_fields: tuple[str, ...]
    examples: tuple[dict[str, Any], ...]
    quality: dict[str, Any]
    parity: dict[str, Any]
    ann: dict[str, Any]
    latency: dict[str, Any]
    files: dict[str, FileRecord] = field(default_factory=dict)
    bundle_version: str = ""
    score: Score = Score()
    precision: Precisions = Precisions()
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """The one way to write this manifest down: sorted keys, two spaces, a newline at the end."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False)
        return f"{text}\n".encode()

    def sealed(self, files: Mapping[str, FileRecord]) -> "Manifest":
        """This manifest with its files and the version that follows from everything in it."""
        bare = dataclasses.replace(self, files=dict(files), bundle_version="")
        version = hashlib.sha256(bare.to_bytes()).hexdigest()
        return dataclasses.replace(bare, bundle_version=version)


def write(parent: Path, manifest: Manifest, fill: Callable[[Path], None]) -> Path:
    """A new bundle `parent/<first 12 digits of its version>`, whole or not at all.

    Args:
        parent: the folder that receives it; made if missing.
        manifest: without files and version, which follow from what `fill` writes.
        fill: writes all files but the manifest into the folder that it is given.

    Returns:
        The bundle's folder. One that already stands there, verified, is kept as it is.

    Raises:
        BundleDamaged: `fill` left out a required file.
    """
    parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".bundle-", dir=parent))
    try:
        fill(draft)
        for name in REQUIRED:
            if not (draft / name).is_file():
                raise BundleDamaged(f"{draft / name}: missing, so the bundle cannot be written")
        paths = sorted(path for path in draft.rglob("*") if path.is_file())
        sealed = manifest.sealed({path.relative_to(draft).as_posix(): record(path) for path in paths})
        (draft / MANIFEST).write_bytes(sealed.to_bytes())
        for path in [*paths, draft / MANIFEST]:
            path.chmod(0o644)
            sync(path)
        draft.chmod(0o755)
        sync(draft)
        final = parent / sealed.bundle_version[:12]
        if final.exists():
            read(final)
            return final
        os.rename(draft, final)
        sync(parent)
        return final
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read(folder: Path) -> Manifest:
    """The manifest of a bundle in which every file has been verified.

    Raises:
        BundleDamaged: a file is missing or differs from its record; the text names the file.
        BundleTooNew, BundleTooOld: the schema version is from the future, or no longer read.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleDamaged(f"{path}: missing")
        found = record(path)
        if found.size != expected.size:
            raise BundleDamaged(f"{path}: {found.size} bytes, expected {expected.size}")
        if found.sha256 != expected.sha256:
            raise BundleDamaged(f"{path}: sha256 is {found.sha256}, expected {expected.sha256}")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, itself verified; the other files are not looked at.

    Raises:
        BundleDamaged: it is missing, is not JSON, or is not what was written.
        BundleTooNew, BundleTooOld: the schema version is from the future, or no longer read.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleDamaged(f"{path}: cannot be read: {error.strerror}") from None
    try:
        table = json.loads(content)
        version = table["schema_version"]
    except (ValueError, TypeError, KeyError):
        raise BundleDamaged(f"{path}: not a bundle's manifest") from None
    if isinstance(version, int) and version < SCHEMA_VERSION:
        raise BundleTooOld(
            f"{path}: schema version {version}, but this program reads {SCHEMA_VERSION}: export it again"
        )
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleTooNew(
            f"{path}: schema version {version}, but this program reads up to {SCHEMA_VERSION}: update it"
        )
    try:
        manifest: Manifest = parse(table, Manifest)
        canonical = manifest.sealed(manifest.files).to_bytes()  # a figure may read as infinite
    except ValueError as error:
        raise BundleDamaged(f"{path}: {error}") from None
    if canonical != content:
        raise BundleDamaged(f"{path}: does not match its own version {manifest.bundle_version[:12]}")
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleDamaged(f"{path}: lists no {name}")
    return manifest


def record(path: Path) -> FileRecord:
    """sha256 and size in bytes of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(digest, path.stat().st_size)


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when the block has ended well: temporary file, fsync, rename."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.rename(temporary, path)
        sync(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
