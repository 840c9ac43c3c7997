"""Reads MLflow's registry for the service.

    python -m twinspire.serving.rollout.registry 5   # answers calls over this descriptor

MLflow is imported with the first call, and never in a process that answers requests.
"""

import logging
import os
import queue
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from twinspire.protos import names
from twinspire.protos.cli import gc_paused
from twinspire.protos.errors import BundleDamaged, MissingStage, TwinspireError, Unavailable
from twinspire.protos.mlflow_keys import ABSENT, BUNDLE_VERSION

STORE = Path("mlruns/mlflow.db")
MODEL = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
NUMBER = re.compile(r"[0-9]{1,18}")
SQLITE = "sqlite:///"
MAX_ERROR_LENGTH = 300  # characters of an error of MLflow
# MLflow, or Alembic for it, imports these if they are installed. Without them the registry's client starts in
# two thirds of the time, and takes 70 MB less memory.
NOT_NEEDED = ("pandas", "polars", "pygments")


class Registered(NamedTuple):
    """A version of a registered model.

    Args:
        version: its number.
        bundle_version: of its bundle: the text of the version's tag, not checked; empty if there is no tag.
    """

    name: str
    version: str
    bundle_version: str = ""

    @property
    def uri(self) -> str:
        """In MLflow's notation."""
        return f"models:/{self.name}/{self.version}"

    def check(self) -> None:
        """Make sure that there is a tag, and that it is a bundle version.

        Raises:
            BundleDamaged: it is not.
        """
        try:
            names.bundle_version(self.bundle_version)
        except ValueError as error:
            raise BundleDamaged(f"{self.uri}: tag {BUNDLE_VERSION}: {error}") from None


def resolve(model: str) -> Registered:
    """The version that `models:/name@alias` or `models:/name/3` names; MLflow may block for minutes.

    Raises:
        MissingStage: there is none.
        Unavailable: the registry does not answer.
    """
    parts = MODEL.fullmatch(model)
    if parts is None:
        raise MissingStage(
            f"{model}: not in the registry, whose models are called models:/name@alias or models:/name/3"
        )
    with _asking(model) as client:
        if parts["alias"]:
            found = client.get_model_version_by_alias(parts["name"], parts["alias"])
        else:
            found = client.get_model_version(parts["name"], parts["version"])
        number = str(found.version)
        if not NUMBER.fullmatch(number):
            raise Unavailable(f"{model}: the registry answers with a version that is no number")
        return Registered(parts["name"], number, found.tags.get(BUNDLE_VERSION, ""))


def download(registered: Registered, draft: Path) -> None:
    """Copy all files of a version into a folder; errors as of `resolve`."""
    with _asking(registered.uri, "it cannot be downloaded"):
        import mlflow

        mlflow.artifacts.download_artifacts(artifact_uri=registered.uri, dst_path=str(draft))


def store_uri() -> str:
    """The registry's address.

    Raises:
        MissingStage: it is a file that does not exist; MLflow would create an empty one.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{STORE}"
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    for each in (uri, registry):
        path = store_file(each)
        if path is not None and not path.is_file():
            raise MissingStage(f"there is no registry at {path}; `make register` makes one")
    return uri


def store_file(uri: str) -> Path | None:
    """The file of a store; None if the store is not a file."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def cleaned(text: str) -> str:
    """An error text of MLflow in one line, without credentials and without parts that change each time."""
    if "database is locked" in text:
        return "its database is locked"
    if "No space left on device" in text:
        return "no space left on the disk"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it does not say why")
    line = re.sub(r"://[^/\s]*@", "://", line)  # up to the last @, because a password may hold others
    line = re.sub(r"\?[^\s'\")]+", "", line)  # signed addresses hold a key there
    line = re.sub(r"<[^<>]* at 0x[0-9a-f]+>:? ?", "", line)
    if len(line) <= MAX_ERROR_LENGTH:
        return line
    return f"{line[: MAX_ERROR_LENGTH // 3]} ... {line[-MAX_ERROR_LENGTH // 2 :]}"


@contextmanager
def _asking(what: str, failure: str = "the registry does not answer") -> Iterator[Any]:
    """MLflow's client; its errors are converted to this program's.

    Args:
        what: begins the text of an error, such as the model.
        failure: describes what failed.
    """
    try:
        with gc_paused():
            import mlflow
            from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise MissingStage(
            f"{what}: reading the registry takes MLflow, which is not installed here; "
            "install it, or serve a folder with --bundle"
        ) from None
    try:
        uri = store_uri()
    except MissingStage as error:
        raise MissingStage(f"{what}: {error}") from None
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True):
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                mlflow.set_tracking_uri(uri)
            with gc_paused():  # the first client imports its store
                client = mlflow.MlflowClient()
            yield client
    except TwinspireError:
        raise
    except MlflowException as error:
        text = cleaned(error.message)
        if error.error_code in ABSENT:
            raise MissingStage(
                f"{what}: not in the registry ({text}); `make register promote` puts it there"
            ) from None
        raise Unavailable(f"{what}: {failure}: {text}") from None
    except Exception as error:  # of a database, an artefact store, a disk: they share no other base
        raise Unavailable(f"{what}: {failure}: {cleaned(str(error))}") from None


def answer_calls(connection: Connection) -> None:
    """Answer the calls of a `RegistryProcess`, until it ends."""
    for name in NOT_NEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: Python refuses to import it
    calls: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                calls.put(connection.recv())
        os._exit(0)  # the caller has ended, even if a call is still running

    threading.Thread(target=listen, daemon=True).start()
    while True:
        connection.send(_answer(*calls.get()))


def _answer(call: str, *arguments: Any) -> Any:
    """What `resolve` or `download` returns, or the error that it raises."""
    calls: dict[str, Callable[..., Any]] = {"resolve": resolve, "download": download}
    try:
        return calls[call](*arguments)
    except TwinspireError as error:
        return error
    except Exception as error:  # returned to the caller, because the log of this process is not kept
        return Unavailable(f"the registry failed: {error!r}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("error: expected the number of a descriptor")
    from twinspire.serving.rollout import (
        registry,
    )  # the classes that are sent are of this module, not __main__

    registry.answer_calls(Connection(int(sys.argv[1])))
