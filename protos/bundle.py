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

A manifest may come from anybody who can write to the registry. The files that it lists are regular files
inside the bundle's folder: a name that leads out of it, a link or a device is refused before anything is read
from it.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from protos import drafts, names
from protos.config import parse
from protos.documents import parse_json
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
SCALES = "vector_scales.npy"  # required where vectors are int8
DRAFT = ".bundle-"  # how the names of folders begin in which bundles are written

MOST_LINKS = 10_000  # hnswlib takes no larger M
LARGEST_MANIFEST = 64 << 20  # bytes; the ids of a million items take about 20 MB
LARGEST = 2**31 - 1  # of counts and beams: rows are int32 in places
LARGEST_DIMENSION = 65_536


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

    def __post_init__(self) -> None:
        _expect_within("m", self.m, 2, MOST_LINKS)
        _expect_within("ef_construction", self.ef_construction, 1, LARGEST)
        _expect_within("ef_search", self.ef_search, 1, LARGEST)
        _expect_within("seed", self.seed, 0, 2**63 - 1)


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

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256: expected 64 lowercase hexadecimal digits, got {self.sha256[:80]!r}")
        _expect_within("size", self.size, 0, 2**63 - 1)


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

    def __post_init__(self) -> None:
        for key, check in (("name", names.model_name), ("run_id", names.run_id)):
            _check_name(key, check, getattr(self, key))
        for name in self.files:
            _check_name("files", names.file_name, name)
        _expect_within("dimension", self.dimension, 1, LARGEST_DIMENSION)
        _expect_within("count", self.count, 1, LARGEST)

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
        BundleDamaged: `fill` left out a required file, or the manifest is larger than 64 MiB.
    """
    with drafts.draft(parent, DRAFT) as draft:
        fill(draft)
        for name in REQUIRED:
            if not (draft / name).is_file():
                raise BundleDamaged(f"{draft / name}: missing, so the bundle cannot be written")
        paths = sorted(path for path in draft.rglob("*") if path.is_file())
        sealed = manifest.sealed({path.relative_to(draft).as_posix(): record(path) for path in paths})
        content = sealed.to_bytes()
        if len(content) > LARGEST_MANIFEST:
            raise BundleDamaged(f"{MANIFEST}: {len(content):,} bytes, expected at most {LARGEST_MANIFEST:,}")
        (draft / MANIFEST).write_bytes(content)
        for path in [*paths, draft / MANIFEST]:
            path.chmod(0o644)
            sync(path)
        draft.chmod(0o755)
        sync(draft)
        final = parent / names.bundle_folder(sealed.bundle_version)
        if final.exists():
            read(final)
            return final
        os.rename(draft, final)
        sync(parent)
        return final


def read(folder: Path) -> Manifest:
    """The manifest of a bundle in which every file has been verified.

    Raises:
        BundleDamaged: a file is missing, is not a regular file inside the folder, or differs from its record;
            the text names the file.
        BundleTooNew, BundleTooOld: the schema version is from the future, or no longer read.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        with open_file(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected.size:
                raise BundleDamaged(f"{path}: {size} bytes, expected {expected.size}")
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != expected.sha256:
            raise BundleDamaged(f"{path}: sha256 is {sha256}, expected {expected.sha256}")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, itself verified; the other files are not looked at.

    Raises:
        BundleDamaged: it is missing, is larger than 64 MiB, is not JSON, is not what was written, or names a
            file outside the folder.
        BundleTooNew, BundleTooOld: the schema version is from the future, or no longer read.
    """
    path = folder / MANIFEST
    with open_file(folder, MANIFEST) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_MANIFEST:
            raise BundleDamaged(f"{path}: {size:,} bytes, expected at most {LARGEST_MANIFEST:,}")
        content = file.read(size)
    try:
        table = parse_json(content)
    except ValueError as error:
        raise BundleDamaged(f"{path}: not a bundle's manifest: {error}") from None
    version = table.get("schema_version") if isinstance(table, dict) else None
    if version is None:
        raise BundleDamaged(f"{path}: not a bundle's manifest: it has no schema_version")
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
    for name in (*REQUIRED, *((SCALES,) if manifest.precision.vectors == "int8" else ())):
        if name not in manifest.files:
            raise BundleDamaged(f"{path}: lists no {name}")
    return manifest


def open_file(folder: Path, name: str) -> io.BufferedReader:
    """A regular file inside a bundle's folder, open for reading; no link below the folder is followed.

    Args:
        folder: of the bundle; may itself be a link.
        name: as the manifest lists it, such as `reports/quality.json`.

    Raises:
        BundleDamaged: there is none of that name, or it is a link, a device, a FIFO or a socket.
    """
    path = folder / name
    try:
        *parents, last = names.file_name(name).split("/")
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for each in parents:
                inner = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
                os.close(place)
                place = inner
            # Opening a FIFO for reading would wait for a writer.
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
        finally:
            os.close(place)
    except ValueError as error:
        raise BundleDamaged(f"{folder / MANIFEST}: files: {error}") from None
    except FileNotFoundError:
        raise BundleDamaged(f"{path}: missing") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise BundleDamaged(f"{path}: {_NOT_REGULAR}") from None
        raise BundleDamaged(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleDamaged(f"{path}: {_NOT_REGULAR}")
    return os.fdopen(descriptor, "rb")


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


_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_REGULAR = "a link, a folder or a special file, expected a regular file inside the bundle"


def _check_name(key: str, check: Callable[[str], str], name: str) -> None:
    try:
        check(name)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _expect_within(key: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{key}: expected {least} to {most}, got {value}")
