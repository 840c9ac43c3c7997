"""Finds the bundle to serve: the one at a path, the newest in a folder, or that of a registered model.

    python -m twinspire.serving.bundles models:/pydocs@champion .cache/bundles   # prints its folder

`TWINSPIRE_CACHE` names another folder than `.cache`, as it does for the stages that write bundles.
"""

import logging
import sys
from pathlib import Path

from twinspire.protos import bundle, names
from twinspire.protos.cli import CommandParser
from twinspire.protos.errors import MissingStage, TwinspireError, Unavailable
from twinspire.serving.rollout.bundle_cache import BUNDLES, BundleCache
from twinspire.serving.rollout.bundle_validation import validate_bundle
from twinspire.serving.rollout.registry import RegistryProcess

log = logging.getLogger(__name__)


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


def download(model: str, folder: Path = BUNDLES, is_served: bool = True) -> Path:
    """Copy a registered model's bundle to a folder and verify it, unless the folder already holds it.

    MLflow runs in a process of its own, because it starts threads, which would not survive a fork.

    Args:
        model: `models:/pydocs@champion` or `models:/pydocs/3`.
        folder: receives the bundle under the first digits of its version.
        is_served: take only the files that a service reads.

    Raises:
        MissingStage: MLflow is not installed, or its registry has no such model.
        BundleError: the registry's bundle is damaged, or of another schema.
        Unavailable: the registry does not answer, or the folder cannot be written.
    """
    with RegistryProcess() as registry:
        return BundleCache(folder, is_served=is_served).take(registry.resolve(model), registry)


def first(model: str, folder: Path = BUNDLES, item_tower: bool = False, workers: int = 1) -> tuple[Path, str]:
    """Find the bundle with which a service that follows an alias starts.

    If the registry does not answer, or the alias's bundle cannot be served, this is the bundle that was
    served last, whatever the error. A bundle that was served last is not validated again, unless another
    server has its items.

    Args:
        model: such as `models:/pydocs@champion`.
        folder: the cache.
        item_tower: whether the item tower will be served too, and so is validated.
        workers: processes that will load it.

    Returns:
        The folder of the bundle, and the version of the model.

    Raises:
        BundleError, MissingStage, Unavailable: as `download`, if no bundle was served before.
    """
    cache = BundleCache(folder, owns=True)
    try:
        with RegistryProcess() as registry:
            registered = registry.resolve(model)
            found = cache.take(registered, registry)
        pointer = cache.pointer(model)
        served_last = pointer is not None and found.name == names.bundle_folder(pointer.bundle_version)
        if not served_last or bundle.read_manifest(found).is_remote:
            validate_bundle(found, item_tower, ready=cache.ready(found), copies=workers)
        return found, registered.version
    except Exception as error:  # of any kind: a damaged bundle may raise anything
        is_foreseen = isinstance(error, TwinspireError)
        text = str(error) if is_foreseen else f"{model}: {type(error).__name__}: {error}"
        last = cache.last_served(model)
        if last is None and is_foreseen:
            raise
        if last is None:
            raise Unavailable(text) from error
        cause = None if is_foreseen else error
        version = last.model_version
        log.warning("%s; starting with version %s, which was served last", text, version, exc_info=cause)
        return Path(last.folder), version


def main() -> None:
    """Download a registered model's bundle, and print its folder."""
    parser = CommandParser(
        prog="python -m twinspire.serving.bundles",
        description="Download a registered model's bundle, and print its folder.",
    )
    parser.add_argument("model", help="such as models:/pydocs@champion or models:/pydocs/3")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=BUNDLES, help="that keeps bundles (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        sys.stdout.write(f"{download(arguments.model, arguments.folder, is_served=False)}\n")
    except TwinspireError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
