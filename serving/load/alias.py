"""A registry for one test, and an alias that the test moves; MLflow runs in a process of its own.

    python -m serving.load.alias FOLDER BUNDLE BUNDLE

It makes the registry in the folder, SQLite and artefacts, registers the bundles as versions 1 and 2 with the
alias on the first, and says so in a line. Then it reads a version from each line of its standard input, moves
the alias there, and answers with a line. It ends when its standard input does.
"""

import importlib.util
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from protos import bundle
from protos.errors import MissingStage, Unavailable
from protos.mlflow_names import BUNDLE_VERSION
from serving.following.registry import SQLITE
from serving.load import services

NAME, ALIAS = "swaptest", "champion"
MODEL = f"models:/{NAME}@{ALIAS}"
DONE = b"done"
DATABASE = "mlflow.db"


class Alias:
    """The alias, as the test sees it.

    Args:
        process: that moves it.
        store: URI of the registry.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", store: str) -> None:
        self.store = store
        self._process = process

    def move(self, version: int) -> None:
        """Have it name another version, soon.

        Raises:
            Unavailable: the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{version}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise Unavailable("the process that moves the alias has ended") from None

    def moved(self, seconds: float = 0.0) -> bool:
        """Whether it does, after so many seconds at most.

        Raises:
            Unavailable: it cannot be moved.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return False
        said = self._process.stdout.readline()
        if said.strip() != DONE:
            raise Unavailable(f"the registry of the test: {said.decode().strip() or 'its process has ended'}")
        return True


@contextmanager
def registry(folder: Path, bundles: Sequence[Path]) -> Iterator[Alias]:
    """A registry that holds these bundles as versions 1, 2..., for as long as the block lasts.

    Args:
        folder: receives it.
        bundles: to register.

    Raises:
        MissingStage: MLflow is not installed.
        Unavailable: it cannot be made.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise MissingStage("the swap test takes MLflow, for a registry of its own; install it")
    command = [sys.executable, "-m", "serving.load.alias", str(folder), *map(str, bundles)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=services.ROOT
        )
        with services.ended(process):
            alias = Alias(process, f"{SQLITE}{folder.absolute() / DATABASE}")
            if not alias.moved(services.PATIENCE):
                raise Unavailable(f"the registry of the test: not there after {services.PATIENCE:g} s")
            yield alias


def main(arguments: Sequence[str]) -> None:
    """Be the other process."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        import mlflow

        folder, *bundles = (Path(each).absolute() for each in arguments)
        mlflow.set_tracking_uri(f"{SQLITE}{folder / DATABASE}")
        client = mlflow.MlflowClient()
        experiment = client.create_experiment(NAME, (folder / "artifacts").as_uri())
        client.create_registered_model(NAME)
        for each in bundles:
            run = client.create_run(experiment).info
            client.log_artifacts(run.run_id, str(each), f"bundle/{each.name}")
            tags = {BUNDLE_VERSION: bundle.read_manifest(each).bundle_version}
            client.create_model_version(NAME, f"{run.artifact_uri}/bundle", run.run_id, tags=tags)
        client.set_registered_model_alias(NAME, ALIAS, "1")
        answers.write(DONE + b"\n")
        for line in sys.stdin:
            client.set_registered_model_alias(NAME, ALIAS, line.strip())
            answers.write(DONE + b"\n")
    except Exception as error:  # whatever it is, the test wants to know it
        answers.write(f"{' '.join(str(error).split())}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
