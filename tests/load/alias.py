"""A registry for one test, with an alias that the test moves, and services that follow it.

    python -m tests.load.alias NAME FOLDER BUNDLE BUNDLE

MLflow runs in this process of its own. It creates the registry in the folder (SQLite and artefacts), and
registers the bundles as versions 1 and 2 of the model, with the alias on the first. Then it moves the alias
to each version that it reads, or another alias if its name follows. It ends when its standard input does. A
file `mlflow.db` in the folder is used: the model's runs stay, and its versions are removed.
"""

import contextlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.load.services import SERVE, Service, report_ready, started, wait_for
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.serving.client import RetrievalClient
from twinspire.serving.rollout.registry import SQLITE

NAME, ALIAS = "swaptest", "champion"
POLL = 0.5  # seconds between a service's requests to the registry


def model(name: str) -> str:
    """The URI of the alias of a model in the registry."""
    return f"models:/{name}@{ALIAS}"


def registry(folder: Path, bundles: Sequence[Path], name: str = NAME) -> AbstractContextManager[Service]:
    """A registry with these bundles as versions 1, 2..., and a process that moves its alias.

    Its files are in `folder`, and its URI is `store(folder)`.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise MissingStage("this test needs MLflow for its registry: make setup")
    arguments = [name, *(str(each.absolute()) for each in (folder, *bundles))]
    return started("the registry of the test", "tests.load.alias", *arguments)


def store(folder: Path) -> str:
    """URI of the registry in a folder."""
    return f"{SQLITE}{folder.absolute() / 'mlflow.db'}"


def variables(folder: Path, cache: Path) -> dict[str, str]:
    """The environment of a process that takes its bundles from the registry, and keeps them in `cache`."""
    uri = store(folder)
    return {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri, "TWINSPIRE_CACHE": str(cache)}


def follow(
    folder: Path,
    cache: Path,
    workers: int | None = None,
    *flags: str,
    name: str = NAME,
    poll: float = POLL,
) -> AbstractContextManager[Service]:
    """A service that follows the alias of the registry in a folder, with further flags; see `started`."""
    flags += ("--model", model(name), "--poll", str(poll))
    flags += () if workers is None else ("--workers", str(workers))
    return started("serve", *SERVE, *flags, environment=variables(folder, cache))


def wait_served(
    service: Service, workers: int, version: str, check: Callable[[], None] = lambda: None
) -> None:
    """Wait until all workers of a service serve a bundle and no other waits; `check` is called in between."""
    pids = set[int]()  # each connection is to some worker

    def are_done() -> bool:
        check()
        with contextlib.suppress(Unavailable), RetrievalClient(service.address) as client:
            info = client.info()
            if info.bundle_version == version and not info.state["following"].get("candidate"):
                pids.add(int(info.state["worker_pid"]))
        return len(pids) >= workers

    wait_for(are_done, f"{service.address}: a swap is not done")


def main(arguments: Sequence[str]) -> None:
    name, (folder, *bundles) = arguments[0], map(Path, arguments[1:])
    with contextlib.redirect_stdout(sys.stderr):  # MLflow prints to standard output too
        import mlflow

        mlflow.set_tracking_uri(store(folder))
        client = mlflow.MlflowClient()
        if known := client.get_experiment_by_name(name):
            client.rename_experiment(known.experiment_id, f"{name} before the test")
        for model_ in client.search_registered_models(f"name = '{name}'"):
            client.delete_registered_model(model_.name)
        experiment = client.create_experiment(name, (folder / "artifacts").as_uri())
        client.create_registered_model(name)
        for each in bundles:
            run = client.create_run(experiment).info
            client.log_artifacts(run.run_id, str(each), f"bundle/{each.name}")
            tags = {BUNDLE_VERSION: bundle.read_manifest(each).bundle_version}
            client.create_model_version(name, f"{run.artifact_uri}/bundle", run.run_id, tags=tags)
    # The alias points to version 1 at first, then to each version that is asked for, and so does another one.
    for version, *other in itertools.chain([[1]], map(json.loads, sys.stdin)):
        with contextlib.redirect_stdout(sys.stderr):
            client.set_registered_model_alias(name, other[0] if other else ALIAS, str(version))
        report_ready(alias=model(name))


if __name__ == "__main__":
    main(sys.argv[1:])
