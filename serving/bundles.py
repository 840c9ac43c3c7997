"""Which bundle to serve: the one at a path, the newest in a folder, or a model version's.

    python -m serving.bundles models:/pydocs@champion .cache/bundles   # prints the folder

`TWINSPIRE_CACHE` names another folder than `.cache`, as it does for the stages that write bundles.
"""

import logging
import os
import sys
from pathlib import Path

from protos import bundle, names
from protos.errors import MissingStage, TwinspireError, Unavailable
from serving.following.cache import Cache, last_served
from serving.following.registry import STORE, MlflowRegistry
from serving.following.registry_process import RegistryProcess
from serving.following.trial import try_bundle

log = logging.getLogger(__name__)

BUNDLES = Path(os.environ.get("TWINSPIRE_CACHE") or ".cache") / "bundles"

__all__ = ["BUNDLES", "STORE", "download", "download_apart", "first", "newest"]


def newest(path: Path = BUNDLES) -> Path:
    """The bundle at `path`, or the newest of the bundles in it.

    Raises:
        MissingStage: there is none.
    """
    if (path / bundle.MANIFEST).is_file():
        return path
    manifests = list(path.glob(f"[!.]*/{bundle.MANIFEST}"))
    if not manifests:
        raise MissingStage(f"{path}: holds no bundle; `make export` writes one")
    return max(manifests, key=lambda manifest: manifest.stat().st_mtime_ns).parent


def download(model: str, folder: Path = BUNDLES) -> Path:
    """The bundle inside a registered model, copied to `folder` and verified; used as it is if it is there.

    Args:
        model: `models:/pydocs@champion` or `models:/pydocs/3`.
        folder: receives the bundle under the first digits of its version.

    Raises:
        MissingStage: MLflow is not installed, or its registry has no such model.
        BundleError: what the registry has is not a whole bundle, or one of another schema.
        Unavailable: the registry does not answer, or the folder cannot be written.
    """
    registry = MlflowRegistry()
    return Cache(folder).take(registry.resolve(model), registry)


def download_apart(model: str, folder: Path = BUNDLES) -> Path:
    """As `download`, with MLflow in a process of its own: it starts threads, and a service forks."""
    with RegistryProcess() as registry:
        return Cache(folder).take(registry.resolve(model), registry)


def first(model: str, folder: Path = BUNDLES, item_tower: bool = False) -> tuple[Path, str]:
    """What a service that follows an alias begins with: its bundle, and that one's version in the registry.

    Where the registry does not answer, or what the alias names cannot be served, that is the bundle that was
    served last, whatever the error. What was served before is not tried again.

    Args:
        model: such as `models:/pydocs@champion`.
        folder: the cache.
        item_tower: the item tower will be offered too.

    Raises:
        BundleError, MissingStage, Unavailable: as `download`, where nothing was served before.
    """
    cache = Cache(folder, owns=True)
    try:
        with RegistryProcess() as registry:
            registered = registry.resolve(model)
            found = cache.take(registered, registry)
        pointer = cache.pointer(model)
        if pointer is None or found.name != names.bundle_folder(pointer.bundle_version):
            try_bundle(found, item_tower, ready=cache.ready(found))
        return found, registered.version
    except Exception as error:  # of any kind: a bundle may do anything to what reads it
        foreseen = isinstance(error, TwinspireError)
        text = str(error) if foreseen else f"{model}: {type(error).__name__}: {error}"
        try:
            found, version = last_served(cache, model)
        except TwinspireError:
            if foreseen:
                raise error from None
            raise Unavailable(text) from error
        cause = None if foreseen else error
        log.warning("%s; starting with version %s, which was served last", text, version, exc_info=cause)
        return found, version


def main() -> None:
    """Print the folder of a registered model's bundle."""
    try:
        sys.stdout.write(f"{download(sys.argv[1], Path(sys.argv[2]))}\n")
    except TwinspireError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
