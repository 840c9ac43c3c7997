"""Bundles in memory, ready to answer, and the split of the traffic between the champion and a canary.

A bundle is loaded whole and warmed up before it answers. The bundle of a request is chosen once, so that its
vector, its items and its version belong together, whatever is swapped meanwhile.
"""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from twinspire.protos.bundle import Manifest
from twinspire.serving.live.live_items import LiveItems, LivePlace
from twinspire.serving.observability.layout import version_cell
from twinspire.serving.retrieval.encoder import ItemEncoder, item_encoder
from twinspire.serving.retrieval.response_bytes import ResponseWriter
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.packed_items import PackedItems, score_parts
from twinspire.serving.segments.shared_catalogue import MappedCatalogue, open_catalogue

CHAMPION, CANARY = "champion", "canary"
PARTS = 10_000  # resolution of a canary's share


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle in memory.

    Args:
        retriever: that answers from it.
        responses: writes its answers.
        item_tower: encodes items, if it is offered.
        model_version: in the registry; empty if a folder is served.
        live: its live items, if the service takes writes; `retriever` and `responses` then include them.
    """

    retriever: Retriever
    responses: ResponseWriter
    item_tower: ItemEncoder | None = None
    model_version: str = ""
    live: LiveItems | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        item_tower: bool = False,
        model_version: str = "",
        ready: Path | None = None,
    ) -> "LoadedBundle":
        """Load a bundle, verify it and warm it up.

        Args:
            item_tower: load the item tower too.
            model_version: in the registry.
            ready: where a shared catalogue may have been written.

        Raises:
            BundleError: it is damaged, or was written by another version of this program.
        """
        retriever = Retriever.load(folder, 1, partial(open_catalogue, ready) if ready else Catalogue)
        tower = item_encoder(folder, retriever.manifest) if item_tower else None
        return cls.of(retriever, tower, model_version)

    @classmethod
    def of(
        cls, retriever: Retriever, item_tower: ItemEncoder | None = None, model_version: str = ""
    ) -> "LoadedBundle":
        """The bundle of a retriever; arguments as of the class."""
        if retriever.manifest.is_remote:
            responses = ResponseWriter(PackedItems.of(b"", [0]), remote_count=retriever.manifest.count)
            return cls(retriever, responses, item_tower, model_version)
        catalogue = retriever.built.catalogue
        if isinstance(catalogue, MappedCatalogue):
            packed = catalogue.packed
        else:
            packed = PackedItems(catalogue, score_parts(retriever.manifest))
        return cls(retriever, ResponseWriter(packed), item_tower, model_version)

    def with_live(self, place: LivePlace) -> "LoadedBundle":
        """This bundle with its live items; errors as of `LiveItems.open`."""
        return self._with(LiveItems.open(self.retriever, place))

    def reopened(self) -> "LoadedBundle":
        """This bundle with the current generation of its encoded items; errors as of `LiveItems`."""
        assert self.live is not None, "only a bundle with live items has encoded items"
        return self._with(self.live.reopened())

    def _with(self, live: LiveItems) -> "LoadedBundle":
        responses = ResponseWriter(self.responses.packed, live.segment)
        return replace(self, retriever=live.retriever, responses=responses, live=live)

    @property
    def sequence(self) -> int:
        """All changes of live items up to this sequence are searched."""
        return self.retriever.sequence

    @cached_property
    def version(self) -> str:
        """The bundle's version."""
        return self.manifest.bundle_version

    @cached_property
    def cell(self) -> float:
        """The version as metrics identify it."""
        return version_cell(self.version)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.retriever.manifest


@dataclass(frozen=True)
class TrafficSplit:
    """The bundles that answer, and their shares of the requests.

    Args:
        champion: answers all requests that the canary does not.
        canary: answers a share of the requests, if there is one.
        share: the canary's share of the requests, 0 to 1.
    """

    champion: LoadedBundle
    canary: LoadedBundle | None = None
    share: float = 0.0

    def choose(self, key: bytes) -> LoadedBundle:
        """The bundle that answers a request: always the same one for a key, until the canary changes.

        Args:
            key: of the request, such as a user's id.
        """
        if self.canary is None:
            return self.champion
        salt = zlib.crc32(self.canary.version.encode())  # each canary gets other keys
        return self.canary if zlib.crc32(key, salt) % PARTS < round(self.share * PARTS) else self.champion

    @property
    def sequence(self) -> int:
        """All changes of live items up to this sequence are searched by each of the bundles."""
        return min(each.sequence for each in self.all)

    @property
    def all(self) -> tuple[LoadedBundle, ...]:
        """The champion, and the canary if there is one."""
        return (self.champion,) if self.canary is None else (self.champion, self.canary)
