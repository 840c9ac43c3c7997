"""Which bundle to serve: the one at a path, the newest in a folder, or a model version's.

`TWINSPIRE_CACHE` names another folder than `.cache`, as it does for the stages that write bundles.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from protos import bundle
from protos.errors import BundleDamaged, MissingStage, TwinspireError

BUNDLES = Path(os.environ.get("TWINSPIRE_CACHE") or ".cache") / "bundles"
STORE = Path("mlruns/mlflow.db")


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
    """The bundle inside a registered model, copied to `folder` and verified.

    Args:
        model: such as `models:/pydocs@champion` or `models:/pydocs/3`.
        folder: receives the bundle under the first digits of its version.

    Raises:
        MissingStage: MLflow is not installed, or its registry has no such model.
        BundleDamaged: what the registry has is not a whole bundle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as draft:
        manifests = sorted(_fetch(model, Path(draft)).rglob(bundle.MANIFEST))
        if len(manifests) != 1:
            raise BundleDamaged(f"{model}: holds {len(manifests)} bundles, expected one")
        found = manifests[0].parent
        final = folder / bundle.read(found).bundle_version[:12]
        if final.exists():
            bundle.read(final)
        else:
            found.rename(final)
    return final


def download_apart(model: str, folder: Path = BUNDLES) -> Path:
    """As `download`, in a process of its own: MLflow starts threads, and a service forks.

    Raises:
        TwinspireError: with the text of what `download` raises.
    """
    command = [sys.executable, "-m", "serving.bundles", model, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TwinspireError(done.stderr.strip().removeprefix("error: "))
    return Path(done.stdout.strip())


def _fetch(model: str, draft: Path) -> Path:
    try:
        import mlflow  # the service itself does without
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise MissingStage(
            f"{model}: reading the registry takes MLflow, which is not installed here; "
            "install it, or serve a folder with --bundle"
        ) from None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        if not STORE.is_file():
            raise MissingStage(f"{model}: there is no registry at {STORE}; `make register` makes one")
        mlflow.set_tracking_uri(f"sqlite:///{STORE}")
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=model, dst_path=str(draft)))
    except MlflowException as error:
        raise MissingStage(
            f"{model}: not in the registry ({error.message}); `make register promote` puts it there"
        ) from None


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{download(sys.argv[1], Path(sys.argv[2]))}\n")
    except TwinspireError as error:
        sys.exit(f"error: {error}")
