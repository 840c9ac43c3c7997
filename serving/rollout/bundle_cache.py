"""Bundles of the registry on this disk, by version: downloaded once, verified at each use.

    cache = BundleCache(Path(".cache/bundles"))
    folder = cache.take(registry.resolve("models:/pydocs@champion"), registry)

    3f2a9c0d1e5b/                          a bundle, named as `bundle.write` names it
    3f2a9c0d1e5b/.fetched                  marks a bundle that a cache downloaded, and may remove if it is
                                           damaged
    .served/pydocs@champion.json           the bundle that an alias served last: a service starts with it if
                                           the registry is down
    .served/downloaded/3f2a9c0d1e5b        marks a bundle that a follower downloaded, and removes when there
                                           are too many
    .served/ready/3f2a9c0d1e5b/            its shared catalogue (`segments/shared_catalogue.py`)
    .download-<digits>                     an unfinished download (`protos/files/atomic_directory.py`)

A bundle is renamed to its place when all of it has been verified. Only the files that its manifest lists are
kept; a service's cache keeps those alone that a service reads (`Manifest.served_files`).

The text of a registry's tag names a folder only if it is a bundle version. The cache removes a folder only if
it has the mark `.fetched`, or that of a follower. So a bundle that was exported here is never removed: if it
is damaged, it stays, and the error names it.
"""

import json
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from twinspire.protos import bundle, names
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, BundleError, TwinspireError, Unavailable
from twinspire.protos.files import atomic_directory
from twinspire.protos.files.draft_file import sync
from twinspire.serving.rollout.registry import Registered, RegistryProcess
from twinspire.serving.rollout.target import BundleRef, bundle_at

log = logging.getLogger(__name__)

# Where bundles are by default; `TWINSPIRE_CACHE` names another folder than `.cache`.
BUNDLES = Path(os.environ.get("TWINSPIRE_CACHE") or ".cache") / "bundles"

FETCHED = ".fetched"  # no manifest can list a file of this name
SPARE = 3  # unused downloads that are kept, so that a rollback needs no download


class BundleCache:
    """A folder of bundles.

    Args:
        folder: created with the first download.
        owns: whether downloads may be removed when there are too many.
        is_served: whether it is a service's; another one also has the other files of a remote bundle.
    """

    def __init__(self, folder: Path, owns: bool = False, is_served: bool = True) -> None:
        self.folder, self._is_served = folder, is_served
        self._owns = owns
        self._notes = folder / ".served"
        self._marks = self._notes / "downloaded"
        self._ready = self._notes / "ready"

    def find(self, bundle_version: str) -> Path | None:
        """The folder of a bundle if it is complete; a damaged download is removed.

        Raises:
            BundleDamaged: the text is not a bundle version.
            Unavailable: a folder that was not downloaded has the bundle's name, and is damaged.
            OSError: it cannot be read.
        """
        try:
            folder = self.folder / names.bundle_folder(bundle_version)
        except ValueError as error:
            raise BundleDamaged(f"bundle version: {error}") from None
        if not os.path.lexists(folder):
            return None
        try:
            found = bundle.read(folder, self._is_served).bundle_version
            if found == bundle_version:
                return folder
            if found.startswith(folder.name):
                return None  # another version that begins with the same digits
            reason = "another version than its name says"
        except BundleError as error:  # of any kind: the damaged byte may be in the schema version
            reason = str(error)
        if folder.is_symlink() or not (folder / FETCHED).is_file():
            raise Unavailable(
                f"{folder}: was not fetched by this cache, so it is not removed, but is no whole bundle; "
                f"move it away ({reason})"
            )
        log.warning("%s is removed: %s", folder, reason)
        atomic_directory.remove(folder)
        return None

    def take(self, registered: Registered, registry: RegistryProcess) -> Path:
        """The folder of a registered version's bundle, verified; downloads it if needed.

        Args:
            registered: the version.
            registry: that has it.

        Raises:
            BundleError: the registry's bundle is damaged or of another schema, or it has no tag with a bundle
                version.
            MissingStage: the registry has no such version.
            Unavailable: the registry does not answer, or the folder cannot be written; it is unchanged.
        """
        registered.check()
        try:
            folder = self.find(registered.bundle_version)
            if folder is None:
                with atomic_directory.draft(self.folder) as draft:
                    registry.download(registered, draft)
                    folder = self._place(registered, draft)
            elif (mark := self._marks / folder.name).exists():
                mark.touch()
            return folder
        except OSError as error:
            raise Unavailable(f"{self.folder}: {error.strerror or error}") from None

    def ready(self, folder: Path) -> Path:
        """The folder of the shared catalogue of a bundle."""
        return self._ready / folder.name

    def pointer(self, model: str) -> BundleRef | None:
        """The bundle that an alias such as `models:/pydocs@champion` served last; None if unknown."""
        try:
            table = parse_json(self._pointer_path(model).read_bytes())
            folder = self.folder / names.bundle_folder(table["bundle_version"])
            return bundle_at(folder, table["bundle_version"], str(table["model_version"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def last_served(self, model: str) -> BundleRef | None:
        """As `pointer`; None also if the bundle is gone."""
        pointer = self.pointer(model)
        with suppress(TwinspireError, OSError):
            if pointer and self.find(pointer.bundle_version):
                return pointer
        return None

    def point(self, model: str, new: BundleRef) -> None:
        """Record the bundle that an alias serves.

        Raises:
            Unavailable: it cannot be written; the record is unchanged.
        """
        if self.pointer(model) == new:
            return
        versions = {"bundle_version": new.bundle_version, "model_version": new.model_version}
        content = json.dumps(versions, indent=2)
        try:
            bundle.write_file(self._pointer_path(model), f"{content}\n".encode())
        except OSError as error:
            raise Unavailable(f"{self._notes}: {error.strerror or error}") from None

    def prune(self, needed: Collection[str]) -> list[str]:
        """Remove downloads of followers that are not needed, except the newest; returns the removed folders.

        A shared catalogue is removed with its bundle.

        Args:
            needed: versions that are served. Versions in pointers are kept too.
        """
        kept = {version[: names.DIGITS] for version in (*needed, *self._pointed())}
        try:
            found = [mark for mark in self._marks.glob("*") if names.is_bundle_folder(mark.name)]
            marks = sorted(found, key=lambda each: each.stat().st_mtime_ns, reverse=True)
            spare = [mark for mark in marks if mark.name not in kept]
            for mark in spare[SPARE:]:
                atomic_directory.remove(self.folder / mark.name)
                mark.unlink(missing_ok=True)
            atomic_directory.remove_abandoned(self._ready)
            for each in self._ready.glob("[!.]*"):
                if not (self.folder / each.name).exists():
                    atomic_directory.remove(each)
        except OSError as error:
            log.warning("%s: cannot be tidied up: %s", self.folder, error.strerror or error)
            return []
        return [mark.name for mark in spare[SPARE:]]

    def _place(self, registered: Registered, draft: Path) -> Path:
        """Verify a download and move it to its place; returns that."""
        manifests = sorted(draft.rglob(bundle.MANIFEST))
        if len(manifests) != 1:
            raise BundleDamaged(f"{registered.uri}: holds {len(manifests)} bundles, expected one")
        found = manifests[0].parent
        try:
            manifest = bundle.read(found)
        except BundleError as error:  # without the path of the download
            raise type(error)(f"{registered.uri}: {str(error).removeprefix(f'{found}/')}") from None
        version = manifest.bundle_version
        final = self.folder / names.bundle_folder(version)
        if registered.bundle_version != version:
            expected = names.bundle_folder(registered.bundle_version)
            raise BundleDamaged(f"{registered.uri}: holds bundle {final.name}, expected {expected}")
        files = manifest.served_files() if self._is_served else manifest.files
        found = _listed_files(found, manifest, files, draft)
        if self.find(version) is None:
            if self._owns:
                self._marks.mkdir(parents=True, exist_ok=True)
                (self._marks / final.name).touch()
            try:
                os.rename(found, final)
            except OSError:
                if self.find(version) is None:  # no other process has put it there meanwhile
                    raise
            sync(self.folder)
        return final

    def _pointed(self) -> set[str]:
        """The bundle versions that the pointers of all aliases name."""
        found = set()
        for path in self._notes.glob("*.json"):
            try:
                found.add(str(parse_json(path.read_bytes())["bundle_version"]))
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return found

    def _pointer_path(self, model: str) -> Path:
        return self._notes / f"{quote(model.removeprefix('models:/'), safe='@')}.json"


def _listed_files(found: Path, manifest: bundle.Manifest, files: Collection[str], draft: Path) -> Path:
    """A new folder in the draft with the manifest, some of the files that it lists, and the mark."""
    folder = draft / FETCHED / names.bundle_folder(manifest.bundle_version)
    folder.mkdir(parents=True)
    for name in (*files, bundle.MANIFEST):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(found / name, target)
        sync(target)
    (folder / FETCHED).touch()
    return folder
