"""The release lock: one release of a model at a time, on any MLflow server.

An alias is last-writer-wins, but the server enforces that the name of a registered model is unique. So the
lock of `pydocs` is the registered model `pydocs.release-lock`. The process that creates it holds the lock,
and its tags, written in the same transaction, describe the holder.

A holder that was killed leaves its lock behind. Any process breaks a lock that is `LOCK_STALE_S` seconds old
by the clock of the server. A process with the same cache breaks it at once: a holder also locks a file there,
which the kernel unlocks when the holder ends, and a tag of the lock says which file.

The lock of the collections on a Milvus server, `COLLECTIONS`, works alike. It is held while `prune` drops a
collection, and while an alias is moved to a version that has a collection.

A lock is broken by renaming its model to a name that ends in the lock's token. The server allows each name
once, so only one process can break a lock. The renamed model is kept, and the record of the release says why
the lock was broken. A holder releases its lock by the same renaming, and then deletes the renamed model
unless the lock is old enough to be broken: a process that is about to break it must find the name taken.
"""

import dataclasses
import fcntl
import getpass
import logging
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import mlflow
import psutil
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from export.markdown import one_line
from protos.errors import Unavailable
from protos.release_records import LOCK_STALE_S, LOCK_SUFFIX
from train.fingerprint import fingerprint
from train.paths import CACHE
from train.training.tracking import is_absent, unreachable

FILES = CACHE / "locks"  # of the locked files
COLLECTIONS = "_milvus-collections"  # begins with "_", which no name of a model may
WAIT_S = 30.0
COLLECTIONS_WAIT_S = 90.0  # longer than one collection is dropped (`prune.DROP_SECONDS`)
POLL_S = 0.2
MAX_SHOWN = 500  # characters of a text from the registry
MAX_BROKEN_SHOWN = 3  # broken locks that a record describes
# Tags of a lock; the last names the locked file.
HOLDER, PROCESS, TOKEN, FILE = "twinspire.holder", "twinspire.process", "twinspire.token", "twinspire.file"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseLock:
    """The release lock of one registered model, held by this process.

    Args:
        name: of the registered model.
        token: unique for each time that the lock is taken.
        broke: the locks that were broken to take this one, three at most: the holder of each, since when it
            was held, and why it was broken.
    """

    name: str
    token: str
    broke: tuple[str, ...] = ()

    def check(self) -> None:
        """Make sure that the lock is still held, and for long enough for one more step.

        Raises:
            Unavailable: it was broken, or may be soon, because this process was too slow.
        """
        found = _touch(self.name)
        if found is None or found.tags.get(TOKEN) != self.token:
            raise Unavailable(
                f"{_shown(self.name)}: the release lock was taken over: this process was too slow; try again"
            )
        if _age(found) > LOCK_STALE_S / 2:
            raise Unavailable(
                f"{_shown(self.name)}: gave up after holding the release lock for {_age(found):.0f} s; "
                "try again"
            )


@contextmanager
def acquire(name: str, actor: str, wait_s: float | None = None) -> Iterator[ReleaseLock]:
    """Hold the release lock of a registered model until the block ends; a wait for it is logged.

    Args:
        name: of the registered model, or `COLLECTIONS`.
        actor: user and host of this process, which other processes show.
        wait_s: seconds to wait while another process holds the lock; `WAIT_S` by default.

    Raises:
        Unavailable: another process still holds the lock (the text says which, since when and until when), or
            MLflow does not answer.
    """
    lock = ReleaseLock(name, uuid.uuid4().hex)
    with _opened(name) as file:
        try:
            try:
                broke = _acquire(lock, actor, file, time.monotonic() + (WAIT_S if wait_s is None else wait_s))
            except MlflowException as error:
                raise unreachable(error) from None
            yield dataclasses.replace(lock, broke=broke)
        finally:
            _release(lock)


def holder(name: str) -> str:
    """User and host of the process that holds the lock of a registered model; empty if none does.

    A lock whose holder has certainly ended counts as free.
    """
    try:
        found = mlflow.MlflowClient().get_registered_model(name + LOCK_SUFFIX)
    except MlflowException as error:
        if is_absent(error):
            return ""
        raise unreachable(error) from None
    with _opened(name) as file:
        return "" if _has_ended(found, _locked(file)) else _shown_tag(found, HOLDER)


def actor() -> str:
    """User and host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextmanager
def _opened(name: str) -> Iterator[IO[str]]:
    """The file that a holder of a lock locks, not locked yet; closing it unlocks it."""
    path = FILES / f"release-{fingerprint(mlflow.get_tracking_uri(), name)[:16]}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file: IO[str] = path.open("a")
    except OSError:  # without a file to lock, only its age frees a lock whose holder has died
        file = tempfile.TemporaryFile("w")  # noqa: SIM115
    with file:
        yield file


def _locked(file: IO[str]) -> str:
    """Lock a file; returns its identity, which no other file has, or "" if it cannot be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if sys.platform == "linux":
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        else:
            boot = f"{socket.gethostname()} {psutil.boot_time()}"
    except OSError:
        return ""
    status = os.fstat(file.fileno())
    return f"{boot} {status.st_dev} {status.st_ino}"


def _has_ended(found: RegisteredModel, locked: str) -> bool:
    """Whether the holder of a lock has certainly ended, as this process has locked its file (`_locked`)."""
    return bool(locked) and found.tags.get(FILE) == locked


def _acquire(lock: ReleaseLock, actor: str, file: IO[str], deadline: float) -> tuple[str, ...]:
    """Take the lock; returns descriptions of the locks that were broken for it."""
    broke: list[str] = []
    failed, is_told = "", False
    while not _create(lock, actor, locked := _locked(file)):
        found = _look(lock.name)
        if found is not None:
            if found.tags.get(TOKEN) == lock.token:
                break  # the response was lost, and the client sent the request again
            why = _why_broken(found, locked)
            if why:
                try:
                    broke.append(_break(lock.name, found, why))
                except MlflowException as error:  # another process was faster, or the server fails
                    failed = f" ({one_line(error.message, MAX_SHOWN)})"
                    time.sleep(POLL_S)
            elif time.monotonic() > deadline:
                raise Unavailable(_held_by_another(lock.name, found))
            else:
                if not is_told:
                    log.warning(
                        "%s: waits for the release lock, held by %s", _shown(lock.name), _described(found)
                    )
                    is_told = True
                time.sleep(POLL_S)
        if time.monotonic() > deadline + WAIT_S:  # it cannot be broken, or its holder changes all the time
            raise Unavailable(f"{_shown(lock.name)}: the release lock could not be taken{failed}; try again")
    return tuple(broke[:MAX_BROKEN_SHOWN])


def _create(lock: ReleaseLock, actor: str, locked: str) -> bool:
    tags = {HOLDER: actor, PROCESS: str(os.getpid()), TOKEN: lock.token, FILE: locked or "none"}
    try:
        mlflow.MlflowClient().create_registered_model(lock.name + LOCK_SUFFIX, tags, _description(lock.name))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" or is_absent(error):  # absent: deleted just now
            return False
        raise
    return True


def _touch(name: str) -> RegisteredModel | None:
    """The lock, after its time of update was set to now by the server's clock; None if there is none."""
    try:
        return mlflow.MlflowClient().update_registered_model(name + LOCK_SUFFIX, _description(name))
    except MlflowException as error:
        if is_absent(error):
            return None
        raise


def _look(name: str) -> RegisteredModel | None:
    """As `_touch`, but None also if the lock is released meanwhile, which a server reports as an error."""
    try:
        return _touch(name)
    except MlflowException:
        holder(name)  # raises if the server does not answer at all
        return None


def _age(model: RegisteredModel) -> float:
    """Seconds from the creation of a lock to its last update."""
    return float(model.last_updated_timestamp - model.creation_timestamp) / 1000


def _why_broken(found: RegisteredModel, locked: str) -> str:
    """Why a lock may be broken; empty if it must not be."""
    if _age(found) >= LOCK_STALE_S:
        return f"it was held for longer than {LOCK_STALE_S:.0f} s"
    return "its process has ended" if _has_ended(found, locked) else ""


def _break(name: str, found: RegisteredModel, why: str) -> str:
    """Break a lock; returns its holder and why it was broken.

    Raises:
        MlflowException: it was not renamed, for example because another process did so first.
    """
    renamed = _renamed(name, found.tags.get(TOKEN, ""))
    mlflow.MlflowClient().rename_registered_model(name + LOCK_SUFFIX, renamed)
    description = f"{_described(found)}: {why}"
    log.warning("%s: broke the release lock of %s", name, description)
    return description


def _release(lock: ReleaseLock) -> None:
    """Release the lock if this process holds it; the lock of another holder stays."""
    client = mlflow.MlflowClient()
    try:
        found = client.get_registered_model(lock.name + LOCK_SUFFIX)
        if found.tags.get(TOKEN) != lock.token:
            return
        client.rename_registered_model(found.name, _renamed(lock.name, lock.token))
        renamed = client.get_registered_model(_renamed(lock.name, lock.token))
        if (
            _age(renamed) < LOCK_STALE_S
        ):  # else a process may be about to break it, and must find the name taken
            client.delete_registered_model(renamed.name)
    except MlflowException as error:
        if not is_absent(error) and error.error_code != "RESOURCE_ALREADY_EXISTS":
            log.warning("%s: the release lock stays until it is broken: %s", lock.name, error.message)


def _renamed(name: str, token: str) -> str:
    return f"{name}{LOCK_SUFFIX}-{token}"


def _description(name: str) -> str:
    return f"The release lock of {name}, deleted when it is released. Not a model."


def _shown_tag(found: RegisteredModel, tag: str) -> str:
    """A tag of a lock, which anyone who may write to the registry may have written."""
    return one_line(found.tags.get(tag, "unknown"), MAX_SHOWN)


def _shown(name: str) -> str:
    """The name of a lock, in messages."""
    return f"{name} (the collections in Milvus)" if name == COLLECTIONS else name


def _described(found: RegisteredModel) -> str:
    """User, host and process of the holder of a lock, and since when it was held."""
    holder, process = _shown_tag(found, HOLDER), _shown_tag(found, PROCESS)
    return f"{holder} (process {process}), held since {_time(found.creation_timestamp)}"


def _time(timestamp: float) -> str:
    """Milliseconds since 1970 as UTC time, ISO 8601."""
    return datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec="seconds")


def _held_by_another(name: str, found: RegisteredModel) -> str:
    until = _time(found.creation_timestamp + 1000 * LOCK_STALE_S)
    return (
        f"{_shown(name)}: the release lock is taken by {_described(found)} ({_age(found):.0f} s), until "
        f"{until} at the latest; try again later. The lock of a process that has ended is broken at once by "
        f"a release with the same cache; to do so from another one before {until}, delete the registered "
        f"model {name}{LOCK_SUFFIX}"
    )
