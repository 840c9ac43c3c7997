"""A registry for one test, with an alias that the test moves; MLflow runs in a process of its own.

    python -m serving.benchmark.alias NAME FOLDER BUNDLE BUNDLE

The process creates the registry in the folder (SQLite and artefacts), and registers the bundles as versions
1 and 2 of the model, with the alias on the first. Then it moves the alias to each version that it reads. It
ends when its standard input does. A file `mlflow.db` in the folder is used: the model's runs stay, and its
versions are removed.
"""

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from protos import bundle
from protos.errors import MissingStage
from protos.mlflow_keys import BUNDLE_VERSION
from serving.benchmark.services import Service, started
from serving.rollout.registry import SQLITE

NAME, ALIAS = "swaptest", "champion"


def model(name: str) -> str:
    """The URI of the alias of a model in the registry."""
    return f"models:/{name}@{ALIAS}"


MODEL = model(NAME)


@contextmanager
def registry(folder: Path, bundles: Sequence[Path], name: str = NAME) -> Iterator[Service]:
    """A registry with these bundles as versions 1, 2..., for as long as the block lasts.

    Args:
        folder: for its files; its URI is `store(folder)`.
        bundles: to register.
        name: of the registered model.

    Yields:
        The registry's process: sent a version, it moves the alias there, and answers.

    Raises:
        MissingStage: MLflow is not installed.
        Unavailable: it cannot be created.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise MissingStage("the swap test needs MLflow for its registry; install it")
    arguments = [name, *(str(each.absolute()) for each in (folder, *bundles))]
    with started("the registry of the test", "serving.benchmark.alias", *arguments) as process:
        yield process


def store(folder: Path) -> str:
    """URI of the registry in a folder."""
    return f"{SQLITE}{folder.absolute() / 'mlflow.db'}"


def main(arguments: Sequence[str]) -> None:
    """Run the registry's process."""
    name, (folder, *bundles) = arguments[0], map(Path, arguments[1:])
    output = sys.stdout

    def answer() -> None:
        output.write(json.dumps({"alias": model(name)}) + "\n")
        output.flush()

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
        client.set_registered_model_alias(name, ALIAS, "1")
        answer()
        for line in sys.stdin:
            (version,) = json.loads(line)
            client.set_registered_model_alias(name, ALIAS, str(version))
            answer()


if __name__ == "__main__":
    main(sys.argv[1:])
