"""The bundles that answer: one, or one and a canary that answers a part of the requests.

Each is loaded whole and warmed before it is shown to anybody. Which of them answers is settled once for a
request, so that its vector, its items and its version belong together whatever is swapped meanwhile.
"""

import zlib
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from protos import retrieval_pb2 as wire
from protos.bundle import Manifest
from serving import convert
from serving.batching import Job
from serving.catalogue import Catalogue
from serving.cells import version_cell
from serving.inference import Encode
from serving.item_tower import item_encoder
from serving.mapped import MappedCatalogue
from serving.packed import PackedCatalogue
from serving.ready import open_catalogue
from serving.retriever import Retriever

CHAMPION, CANARY = "champion", "canary"
PARTS = 10_000  # that the share of a canary is told in


@dataclass(frozen=True)
class Served:
    """A bundle at work.

    Args:
        retriever: that answers from it.
        packed: its catalogue as parts of answers.
        item_tower: encodes items, where that is on offer.
        model_version: of the registry; empty where a folder is served.
    """

    retriever: Retriever
    packed: PackedCatalogue
    item_tower: Encode | None = None
    model_version: str = ""

    @classmethod
    def load(
        cls,
        folder: Path,
        threads: int = 1,
        item_tower: bool = False,
        model_version: str = "",
        ready: Path | None = None,
    ) -> "Served":
        """A bundle, verified and warmed up.

        Args:
            folder: of the bundle.
            threads: that the query tower may use inside one call.
            item_tower: offer the item tower too.
            model_version: of the registry.
            ready: where its catalogue may have been made ready.

        Raises:
            BundleError: it is damaged, or was written by another version of this program.
        """
        retriever = Retriever.load(folder, threads, partial(open_catalogue, ready) if ready else Catalogue)
        tower = item_encoder(folder, retriever.manifest) if item_tower else None
        catalogue = retriever.catalogue
        packed = catalogue.packed if isinstance(catalogue, MappedCatalogue) else PackedCatalogue(catalogue)
        return cls(retriever, packed, tower, model_version)

    @cached_property
    def version(self) -> str:
        """Of the bundle."""
        return self.manifest.bundle_version

    @cached_property
    def cell(self) -> float:
        """The version as metrics tell it."""
        return version_cell(self.version)

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        return self.retriever.manifest

    def response(self, job: Job) -> bytes:
        """The answer to a search."""
        return self.packed.response(job.found[0], self.version, job.timing)

    def batch_response(self, job: Job) -> bytes:
        """The answers to a batch of searches."""
        return self.packed.batch_response(job.found, self.version, job.timing)

    def vectors_response(self, job: Job) -> wire.EncodeResponse:
        """The vectors of queries."""
        return wire.EncodeResponse(
            vectors=[wire.Vector(values=vector) for vector in job.vectors.tolist()],
            bundle_version=self.version,
            timing=convert.timing_to_wire(job.timing),
        )


@dataclass(frozen=True)
class Lineup:
    """Who answers.

    Args:
        champion: what is not the canary's.
        canary: a share of the requests, if there is one.
        share: of the requests that the canary answers, 0 to 1.
    """

    champion: Served
    canary: Served | None = None
    share: float = 0.0
    _salt: int = field(init=False, repr=False, default=0)
    _below: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        if self.canary is not None:  # each canary gets another part of the keys
            object.__setattr__(self, "_salt", zlib.crc32(self.canary.version.encode()))
            object.__setattr__(self, "_below", round(self.share * PARTS))

    def choose(self, key: bytes) -> Served:
        """Who answers a request: for one key always the same, as long as the canary is.

        Args:
            key: of the request, such as a user's id.
        """
        if self.canary is not None and zlib.crc32(key, self._salt) % PARTS < self._below:
            return self.canary
        return self.champion

    @property
    def all(self) -> tuple[Served, ...]:
        """The champion, and the canary where there is one."""
        return (self.champion,) if self.canary is None else (self.champion, self.canary)
