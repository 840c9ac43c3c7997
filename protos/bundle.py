"""A bundle: the unit of release, one folder with everything that is needed to answer queries.

    manifest.json         description, measurements, and the sha256 and size of every other file
    query_tower.onnx      arrays of a query (`features.py`) -> query vectors
    item_tower.onnx       the same for items
    vectors.npy           item vectors (N, D), row n belongs to item n (`nearest/vectors.py`)
    links.npy             graph over the same rows, if the index kind is `hnsw` (`nearest/links.py`)
    items.json            {"ids": [...], "popularity": [...], "fields": {"<display field>": [...]}}
    filters.npz           values of the filter fields, if there are any (`filters.py`)
    lexical/*.npy         BM25 weights by term, if the bundle is hybrid (`hybrid/lexical_index.py`)
    drift.npz             what queries and items were like, if known (`drift.py`)
    item_digests.npy      uint8 (N, 16): a hash of what the item tower has read of each item, if known
    reports/*             quality, parity, latency and recall in JSON, and their plots
    ...                   files of the features, such as a tokenizer's, and of other kinds of indexes

`write` creates a bundle atomically. `read` verifies every byte before it returns anything. The bundle version
is the sha256 of the manifest, which contains the sha256 of every other file.

Manifests are untrusted: anyone with write access to the registry can make one. Every file that a manifest
lists must be a regular file inside the bundle's folder; a path that leads outside, a link or a device is
refused before anything is read from it.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from twinspire.protos import names
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, BundleTooNew, BundleTooOld
from twinspire.protos.features import Schema, Side
from twinspire.protos.files import atomic_directory
from twinspire.protos.files.draft_file import create_draft, sync
from twinspire.protos.files.field_checks import check_name, expect_within
from twinspire.protos.filter_kinds import FilterKind
from twinspire.protos.inputs.texts import warn_of_other_unicode
from twinspire.protos.lexical import Analyzer, WeightingName
from twinspire.protos.toml_config import OPTIONAL, parse, to_table

SCHEMA_VERSION = 4
OLDEST_VERSION = 3  # that is still read: its graphs are files of hnswlib

MANIFEST = "manifest.json"
QUERY_TOWER = "query_tower.onnx"
ITEM_TOWER = "item_tower.onnx"
TOWERS: dict[Side, str] = {"query": QUERY_TOWER, "item": ITEM_TOWER}
VECTORS = "vectors.npy"
LINKS = "links.npy"
HNSWLIB = "index.hnsw"  # of version 3, in the place of links.npy
ITEMS = "items.json"
FILTERS = "filters.npz"  # required if there are filter fields
DRIFT = "drift.npz"  # optional: without it, drift is unknown
DIGESTS = "item_digests.npy"  # tells a refresh which items have changed
# Array of `hybrid.lexical_index.Postings` -> file; required if the bundle is hybrid.
LEXICAL_FILES = {name: f"lexical/{name}.npy" for name in ("terms", "idf", "starts", "documents", "weights")}
REPORTS = "reports"
REQUIRED = (QUERY_TOWER, ITEM_TOWER, VECTORS, ITEMS)  # in every bundle
DRAFT = ".bundle-"  # prefix of the folders in which bundles are written

HNSW = "hnsw"  # a graph that is searched in the process
EXACT = "exact"
MILVUS = "milvus"  # a collection on a Milvus server
PGVECTOR = "pgvector"  # a table of PostgreSQL with pgvector
REMOTE_KINDS = (MILVUS, PGVECTOR)  # kinds whose server holds the items (`vector_databases/database.py`)
INDEX_KINDS = (HNSW, *REMOTE_KINDS)  # that an experiment may ask for; `hnsw` includes exact search
MAX_LINKS = 10_000  # the largest M that hnswlib accepts
LARGEST_MANIFEST = 64 << 20  # bytes; the ids of a million items take about 20 MB
LARGEST = 2**31 - 1  # of counts and search widths: rows are int32 in places
LARGEST_DIMENSION = 65_536
MAX_INTERESTS = 64  # vectors of a query: each is a search


@dataclass(frozen=True)
class IndexParameters:
    """The kind of index, and how it was built and is searched.

    `m`, `ef_construction` and `ef_search` are parameters of an HNSW graph (Malkov and Yashunin 2018,
    section 4). If scores are not cosines, the graph is that of the items with 0 in their last coordinate,
    which only pads them to unit length.

    Args:
        space: hnswlib's name of the metric, always "ip", the inner product.
        exact: every search compares the query with all items, because that is about as fast or because the
            experiment asks for it. The bundle then holds no graph.
        kind: `hnsw`, `exact`, or the name of another implementation. The first two follow from `exact` and
            are not stored in the manifest.
    """

    space: str = "ip"
    m: int = field(default=0, metadata=OPTIONAL)
    ef_construction: int = field(default=0, metadata=OPTIONAL)
    ef_search: int = field(default=0, metadata=OPTIONAL)
    seed: int = 0
    exact: bool = False
    kind: str = field(default="", metadata=OPTIONAL)
    options: dict[str, Any] = field(default_factory=dict, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        expect_within("seed", self.seed, 0, 2**63 - 1)
        if self.kind in ("", HNSW, EXACT):
            expect_within("m", self.m, 2, MAX_LINKS)
            expect_within("ef_construction", self.ef_construction, 1, LARGEST)
            expect_within("ef_search", self.ef_search, 1, LARGEST)
            object.__setattr__(self, "kind", EXACT if self.exact else HNSW)
        elif self.exact:
            raise ValueError(f"exact: goes with an HNSW graph, not with an index of kind {self.kind!r}")

    def describe(self) -> str:
        """Kind and parameters, in words."""
        if self.kind == EXACT:
            return "exact search"
        if self.kind == HNSW:
            return (
                f"HNSW, M = {self.m}, ef_construction = {self.ef_construction}, ef_search = {self.ef_search}"
            )
        return ", ".join([self.kind, *(f"{name} = {value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Score:
    """How the inner product of a query vector and an item vector becomes a score.

    Item vectors have unit length. Query vectors have unit length if the kind is `cosine`.

    Args:
        kind: `cosine` and `inner_product` are the product itself; `sigmoid` is 1 / (1 + e^-(x + bias)).
        bias: of the sigmoid.
    """

    kind: Literal["cosine", "inner_product", "sigmoid"] = "cosine"
    bias: float = 0.0

    @property
    def has_padding_dim(self) -> bool:
        """Whether the last coordinate of an item vector only pads it to unit length."""
        return self.kind != "cosine"


TableVariant = Literal["fp32", "fp16_tables", "int8_tables"]
Variant = Literal[TableVariant, "int8_dynamic", "int8_static"]
MAX_FILTER_FIELDS = 64
MAX_CANDIDATES = 1 << 20  # of a hybrid search; its memory grows with them


@dataclass(frozen=True)
class Precisions:
    """The precision in which towers are stored. Vectors, and all computation, are in float32.

    Args:
        query: the query tower's variant. `fp16_tables` stores the embedding tables in float16, `int8_tables`
            as int8 rows with a scale each. `int8_dynamic` and `int8_static`, of earlier versions, also have
            int8 dense layers.
    """

    query: Variant = "fp32"
    item: Variant = "fp32"
    vectors: Literal["fp32"] = "fp32"


@dataclass(frozen=True)
class FileRecord:
    """The expected content of a file in the bundle; `size` is in bytes."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256: expected 64 lowercase hexadecimal digits, got {self.sha256[:80]!r}")
        expect_within("size", self.size, 0, 2**63 - 1)


@dataclass(frozen=True)
class Snapshot:
    """The state of the store of live items that a bundle's items were read from.

    Args:
        sequence: all its changes up to this one are in the bundle.
        mark: by which the store is told from a copy with other changes; 0 in older bundles.
    """

    store: str
    sequence: int
    mark: int = field(default=0, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        if not 1 <= len(self.store.encode()) <= 64:
            raise ValueError(f"store: expected an id of 1 to 64 bytes, got {self.store[:80]!r}")
        expect_within("sequence", self.sequence, 0, 2**63 - 1)
        expect_within("mark", self.mark, 0, 2**63 - 1)


@dataclass(frozen=True)
class Refreshed:
    """The bundle whose towers, and vectors of unchanged items, a refreshed bundle has taken over.

    Args:
        bundle_version: of that bundle.
        key: sha256 of everything that the refreshed bundle was made from.
    """

    bundle_version: str
    key: str

    def __post_init__(self) -> None:
        for name in ("bundle_version", "key"):
            check_name(name, names.bundle_version, getattr(self, name))


@dataclass(frozen=True)
class Hybrid:
    """How queries with a text are answered by terms beside the vectors (`protos/hybrid/fusion.py`).

    Args:
        analyzer: splits the texts of items and queries.
        k1: of BM25: how much a repeated term counts, above 0.
        b: of BM25: how much the length of an item's text counts, 0 to 1.
        mean_length: tokens of an item's text in the mean, when the statistics were taken.
        weight: share of the lexical score in a convex combination, 0 to 1.
        dense_candidates: of the dense search; as many as are wanted, if those are more.
        lexical_candidates: of the lexical side, likewise.
        most_postings: postings of a query's rarer terms that are read for candidates, in all.
        most_terms: distinct terms of a query that count, the rarest ones.
        method: of fusion: a convex combination of both scores.
        scoring: of the lexical side: BM25, or the cosine of TF-IDF (`protos/hybrid/term_weights.py`).
        prior_weight: of the prior of the items that were clicked after the same query, 0 to 1. 0 where the
            bundle has no priors.
    """

    analyzer: Analyzer
    k1: float
    b: float
    mean_length: float
    weight: float
    dense_candidates: int
    lexical_candidates: int
    most_postings: int
    most_terms: int = 32
    method: Literal["convex"] = "convex"
    scoring: WeightingName = field(default="bm25", metadata=OPTIONAL)
    prior_weight: float = field(default=0.0, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        for key in ("dense_candidates", "lexical_candidates", "most_postings", "most_terms"):
            expect_within(key, getattr(self, key), 0, MAX_CANDIDATES)
        for key in ("b", "weight", "prior_weight"):
            expect_within(key, getattr(self, key), 0, 1)
        for key in ("k1", "mean_length"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key}: expected a number above 0, got {getattr(self, key)}")


@dataclass(frozen=True)
class Manifest:
    """What a bundle contains, where it comes from, and what was measured on it.

    Args:
        name: the registered model's name.
        run_id: the MLflow run that trained the towers.
        git_commit: the commit of the code that trained them, empty outside a git checkout.
        dataset: name, counts and texts of the data set.
        split_hash: sha256 over the ids of each part of the split.
        dimension: D.
        count: N, the number of items.
        schema: feature specs and vocabularies.
        index: kind and parameters of the index.
        display_fields: fields that an answer can show beside an id.
        examples: queries from the test split, for demos and warm-up.
        quality: metrics of what the bundle holds, by exact search, and of the baselines, on the test split.
        parity: largest differences between torch and ONNX Runtime.
        ann: recall of the index against exact search over the catalogue.
        latency: of the towers, with thread budget and machine.
        files: path -> sha256 and size of every other file.
        bundle_version: sha256 of this manifest with this field empty.
        score: how an inner product becomes a score.
        precision: in which towers and vectors are stored.
        catalogue: where the items come from a store of live items: its state at that time.
        refreshed_from: of a bundle that was made of another one, without training.
        filters: filter field -> type of its values; bundles without filter fields leave it out.
        letters: letters and digits of the training texts, normalised and sorted. The query tower knows
            nothing of a text without any of them. Bundles without texts, and older ones, leave it out.
        unicode: version of the Unicode tables that texts were read with.
        hybrid: how BM25 takes part in the answers; bundles without a lexical index leave it out.
        pretrained: the encoder that the towers hold or have learned from, its licence and its use, in words;
            bundles without one leave it out.
        interests: K, the number of vectors of a query (`search.py`); bundles with one leave it out.
        score_reference: median of the best scores that validation queries get, by `matched_score` of
            `hybrid/lexical_index.py`. None if queries need no text, or their scores are no cosines.
        weak_score: of right answers without a filter, about 1 in 100 has a best score below, over the items
            as evaluated; served texts may score higher. It does not say how many answers below are right.
            None as `score_reference`, and where too few validation queries are answered right.
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
    catalogue: Snapshot | None = field(default=None, metadata=OPTIONAL)
    refreshed_from: Refreshed | None = field(default=None, metadata=OPTIONAL)
    filters: dict[str, FilterKind] = field(default_factory=dict, metadata=OPTIONAL)
    letters: str = field(default="", metadata=OPTIONAL)
    unicode: str = field(default="", metadata=OPTIONAL)
    hybrid: Hybrid | None = field(default=None, metadata=OPTIONAL)
    pretrained: str = field(default="", metadata=OPTIONAL)
    interests: int = field(default=1, metadata=OPTIONAL)
    score_reference: float | None = field(default=None, metadata=OPTIONAL)
    weak_score: float | None = field(default=None, metadata=OPTIONAL)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for key, check in (("name", names.model_name), ("run_id", names.run_id)):
            check_name(key, check, getattr(self, key))
        for name in self.files:
            check_name("files", names.file_name, name)
        if not re.fullmatch(r"[0-9.]{0,20}", self.unicode):
            raise ValueError(f"unicode: expected digits and dots, got {self.unicode[:80]!r}")
        expect_within("dimension", self.dimension, 1, LARGEST_DIMENSION)
        expect_within("count", self.count, 1, LARGEST)
        expect_within("number of filters", len(self.filters), 0, MAX_FILTER_FIELDS)
        expect_within("interests", self.interests, 1, MAX_INTERESTS)
        if self.hybrid is not None and (self.is_remote or self.interests > 1):
            raise ValueError("hybrid: expected none with items on another server, or several interests")
        if self.interests > 1:
            self._check_interests()

    def _check_interests(self) -> None:
        """Refuse what is of one vector for each query.

        Raises:
            ValueError: the bundle has it.
        """
        if self.score.kind == "sigmoid":
            raise ValueError('score: expected no "sigmoid" where a query has several vectors (interests)')
        if self.is_remote:
            raise ValueError(f"index: expected {HNSW} or {EXACT} where a query has several vectors")

    @property
    def excludes_history(self) -> bool:
        """Whether answers leave out the items of the query's history where a request does not say.

        They do where the bundle was evaluated so, because no history of its data set holds an item twice.
        """
        has_history = any(spec.kind == "history" for spec in self.schema.query.values())
        return has_history and self.dataset.get("repeats") == "first"

    def width(self, side: Side) -> int:
        """The number of coordinates that a tower gives: D, and of the query tower D for each interest."""
        return self.dimension * self.interests if side == "query" else self.dimension

    def to_bytes(self) -> bytes:
        """The canonical form of this manifest: JSON with sorted keys, indented by two."""
        table = to_table(self)
        if self.index.kind in (HNSW, EXACT):
            del table["index"]["kind"]
        return f"{json.dumps(table, indent=2, sort_keys=True, allow_nan=False)}\n".encode()

    def index_files(self) -> tuple[str, ...]:
        """The files that the bundle must hold for its index, beside the vectors."""
        if self.index.kind != HNSW:
            return ()
        return (HNSWLIB,) if self.schema_version == OLDEST_VERSION else (LINKS,)

    @property
    def is_remote(self) -> bool:
        """Whether another server holds the items."""
        return self.index.kind in REMOTE_KINDS

    def served_files(self) -> dict[str, FileRecord]:
        """The files that a service reads and keeps: of a remote bundle, none with something of each item."""
        left_out = {VECTORS, ITEMS, FILTERS, DIGESTS} if self.is_remote else set()
        return {name: record for name, record in self.files.items() if name not in left_out}

    def required_files(self) -> tuple[str, ...]:
        """The files that this bundle must list."""
        filters = (FILTERS,) if self.filters else ()
        lexical = (*LEXICAL_FILES.values(),) if self.hybrid is not None else ()
        return (*REQUIRED, *self.index_files(), *self.schema.files(), *filters, *lexical)

    @property
    def size_mib(self) -> float:
        """MiB of all files but the manifest."""
        return sum(record.size for record in self.files.values()) / 2**20

    def sealed(self, files: Mapping[str, FileRecord]) -> "Manifest":
        """This manifest with its files, and the version computed from all its content."""
        bare = dataclasses.replace(self, files=dict(files), bundle_version="")
        version = hashlib.sha256(bare.to_bytes()).hexdigest()
        return dataclasses.replace(bare, bundle_version=version)


def write(parent: Path, manifest: Manifest, fill: Callable[[Path], None]) -> Path:
    """Write a bundle to `parent/<first 12 digits of its version>`, atomically.

    Args:
        parent: the folder that receives it; created if missing.
        manifest: without files and version; both are computed from what `fill` writes.
        fill: writes all files but the manifest into the folder that it is given.

    Returns:
        The bundle's folder. A bundle that is already there is verified and kept.

    Raises:
        BundleDamaged: `fill` left out a required file, or the manifest is larger than 64 MiB.
    """
    with atomic_directory.draft(parent, DRAFT) as draft:
        fill(draft)
        for name in manifest.required_files():
            if not (draft / name).is_file():
                raise BundleDamaged(f"{draft / name}: missing, so the bundle cannot be written")
        paths = sorted(path for path in draft.rglob("*") if path.is_file())
        sealed = manifest.sealed(records(draft))
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


def read(folder: Path, is_served: bool = False) -> Manifest:
    """Verify every file of a bundle, or `is_served` those that a service reads, and return its manifest.

    Logs a warning where texts may be read differently from training, because Unicode has another version.

    Raises:
        BundleDamaged: a file is missing, is not a regular file inside the folder, or differs from its record;
            the text names the file.
        BundleTooNew, BundleTooOld: the schema version is from the future, or no longer read.
    """
    manifest = read_manifest(folder)
    for name, expected in (manifest.served_files() if is_served else manifest.files).items():
        path = folder / name
        with open_file(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected.size:
                raise BundleDamaged(f"{path}: {size} bytes, expected {expected.size}")
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != expected.sha256:
            raise BundleDamaged(f"{path}: sha256 is {sha256}, expected {expected.sha256}")
    if manifest.schema.reads_characters or manifest.hybrid:
        warn_of_other_unicode(names.bundle_folder(manifest.bundle_version), manifest.unicode)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Verify and return the manifest alone; no other file is read.

    Raises:
        BundleDamaged: it is missing, is larger than 64 MiB, is not JSON, was changed after it was written, or
            names a file outside the folder.
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
    if isinstance(version, int) and not OLDEST_VERSION <= version <= SCHEMA_VERSION:
        text = f"{path}: schema version {version}, expected {OLDEST_VERSION} to {SCHEMA_VERSION}"
        if version < OLDEST_VERSION:
            raise BundleTooOld(f"{text}: export it again")
        raise BundleTooNew(f"{text}: update it")
    try:
        manifest: Manifest = parse(table, Manifest)
        canonical = manifest.sealed(manifest.files).to_bytes()  # raises if a number is infinite
    except ValueError as error:
        raise BundleDamaged(f"{path}: {error}") from None
    if canonical != content:
        raise BundleDamaged(f"{path}: does not match its own version {manifest.bundle_version[:12]}")
    for name in manifest.required_files():
        if name not in manifest.files:
            raise BundleDamaged(f"{path}: lists no {name}")
    if manifest.schema.files():
        manifest = dataclasses.replace(manifest, schema=manifest.schema.in_folder(folder))
    return manifest


def open_file(folder: Path, name: str) -> io.BufferedReader:
    """Open a regular file inside a bundle's folder for reading; no link below the folder is followed.

    Args:
        folder: of the bundle; may itself be a link.
        name: as the manifest lists it, such as `reports/quality.json`.

    Raises:
        BundleDamaged: the file is missing, or is a link, a device, a FIFO or a socket.
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


def records(folder: Path) -> dict[str, FileRecord]:
    """Path -> record of each file in a bundle's folder that has no manifest yet."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): record(path) for path in paths}


def record(path: Path) -> FileRecord:
    """Compute sha256 and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(digest, path.stat().st_size)


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically; its folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: a temporary file that is synced and renamed when the block succeeds.

    As with `open`, the process's umask decides who may read it.
    """
    descriptor, temporary = create_draft(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_REGULAR = "a link, a folder or a special file, expected a regular file inside the bundle"
