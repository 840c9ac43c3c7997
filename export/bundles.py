"""Where bundles are on this machine, and how one is found."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinspire.protos import bundle, names
from twinspire.protos.errors import BundleDamaged, BundleError, MissingStage
from twinspire.train.config import Experiment
from twinspire.train.paths import CACHE
from twinspire.train.progress import PROGRESS

if TYPE_CHECKING:  # finding a bundle needs no MLflow, whose import takes seconds
    from mlflow.entities import Run

BUNDLES = CACHE / "bundles"


def find_bundle(experiment: Experiment, path: Path | None) -> tuple[Path, bundle.Manifest]:
    """The bundle at a path, or the experiment's newest, verified.

    A bundle whose manifest cannot be read is passed over: it may be of any experiment.

    Raises:
        MissingStage: the experiment has no bundle whose manifest can be read.
        BundleError: the bundle cannot be read.
    """
    if path is not None:
        return path, bundle.read(path)
    found = sorted(BUNDLES.glob(f"[!.]*/{bundle.MANIFEST}"), key=lambda each: -each.stat().st_mtime)
    unreadable: list[BundleError] = []
    for each in found:
        try:
            name = bundle.read_manifest(each.parent).name
        except BundleError as error:
            unreadable.append(error)
            continue
        if name == experiment.name:
            return each.parent, bundle.read(each.parent)
    if unreadable:
        raise MissingStage(
            f"{experiment.name}: there is no bundle that can be read ({unreadable[0]}); "
            "`make export` makes one"
        ) from unreadable[0]
    raise MissingStage(f"{experiment.name}: there is no bundle yet; `make export` comes first")


def bundle_of_tag(run: "Run", tag: str) -> Path | None:
    """The bundle whose folder a tag of a run names; None if there is no such bundle, or it is damaged.

    Args:
        tag: name of the tag. Its value comes from the tracking server, so it may be any text.
    """
    folder = run.data.tags.get(tag)
    if folder is None:
        return None
    try:
        if not names.is_bundle_folder(folder):
            raise BundleDamaged(f"tag {tag} of run {run.info.run_id} does not name a bundle")
        bundle.read(BUNDLES / folder)
        return BUNDLES / folder
    except BundleError as error:
        PROGRESS.print(f"{error}; making the bundle again")
        return None


def why_not_comparable(manifest: bundle.Manifest, split_hash: str, dataset: Mapping[str, Any]) -> str:
    """Why figures of a bundle and figures on a split cannot be compared; empty if they can.

    Args:
        split_hash: of the split.
        dataset: the report of its data set, or `dataset` of another manifest.
    """
    if manifest.split_hash != split_hash:
        return "the splits differ"
    own, other = manifest.dataset.get("repeats"), dataset.get("repeats")
    return "" if own == other else f"data.repeats is {own!r} in one data set and {other!r} in the other"
