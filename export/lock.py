"""One release at a time, on any MLflow server: a lock that lives in its model registry.

Aliases are last-writer-wins, but the name of a registered model is unique, and the server itself sees to
that. So the lock of `pydocs` is the registered model `pydocs.release-lock`: who creates it holds it, and
its tags, written in the same transaction, say who that is.

A holder that died leaves the lock behind. After `STALE_S` seconds, by the server's own clock, anybody may
break it: renaming it to a name that ends in its token, which can be done once, because that name is then
taken. The renamed model stays, as a trace. A holder lets go the same way and deletes what it renamed, but
only while nobody can have thought it dead. So nobody ever removes a lock that is not the one it saw.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import mlflow
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from protos.errors import Unavailable
from train.tracking import is_absent, unreachable

SUFFIX = ".release-lock"
STALE_S = 300.0  # a release holds it for a second or two
WAIT_S = 30.0
POLL_S = 0.2
WHO, SINCE, TOKEN = "twinspire.holder", "twinspire.since", "twinspire.token"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lock:
    """The lock of one registered model, held by this process.

    Args:
        name: of the registered model whose champion it guards.
        token: of this holder, and no other.
    """

    name: str
    token: str

    def check(self) -> None:
        """Make sure that it is still held, and for long enough to do one more thing.

        Raises:
            Unavailable: it was broken, or will be soon, as this process was too slow.
        """
        found = _touch(self.name)
        if found is None or found.tags.get(TOKEN) != self.token:
            raise Unavailable(f"{self.name}: the release lock was taken over: this process was too slow")
        if _age(found) > STALE_S / 2:
            raise Unavailable(
                f"{self.name}: gave up after holding the release lock for {_age(found):.0f} s; try again"
            )


@contextmanager
def held(name: str, who: str, wait_s: float | None = None) -> Iterator[Lock]:
    """The lock of a registered model, for as long as the block lasts.

    Args:
        name: of the registered model.
        who: asks, for others to read.
        wait_s: for how long to wait while somebody else holds it; `WAIT_S` if not given.

    Raises:
        Unavailable: somebody holds it still, and the text says who; or MLflow does not answer.
    """
    lock = Lock(name, uuid.uuid4().hex)
    try:
        try:
            _take(lock, who, time.monotonic() + (WAIT_S if wait_s is None else wait_s))
        except MlflowException as error:
            raise unreachable(error) from None
        yield lock
    finally:
        _release(lock)


def holder(name: str) -> str:
    """Who holds the lock of a registered model now, or nobody: an empty text."""
    try:
        found = mlflow.MlflowClient().get_registered_model(name + SUFFIX)
    except MlflowException as error:
        if is_absent(error):
            return ""
        raise unreachable(error) from None
    return str(found.tags.get(WHO, "somebody"))


def _take(lock: Lock, who: str, deadline: float) -> None:
    while not _create(lock, who):
        found = _look(lock.name)
        if found is not None:
            if found.tags.get(TOKEN) == lock.token:
                return  # the request went out twice, as its answer was lost
            if _age(found) >= STALE_S:
                _break(lock.name, found)
            elif time.monotonic() > deadline:
                raise Unavailable(_taken(lock.name, found))
            else:
                time.sleep(POLL_S)
        if time.monotonic() > deadline + WAIT_S:  # it changes hands each time we look
            raise Unavailable(f"{lock.name}: the release lock could not be had; try again")


def _create(lock: Lock, who: str) -> bool:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        mlflow.MlflowClient().create_registered_model(
            lock.name + SUFFIX, {WHO: who, SINCE: now, TOKEN: lock.token}, _description(lock.name)
        )
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" or is_absent(error):  # absent: gone since
            return False
        raise
    return True


def _touch(name: str) -> RegisteredModel | None:
    """The lock as it is now, its time of update set to now by the clock that also told its creation."""
    try:
        return mlflow.MlflowClient().update_registered_model(name + SUFFIX, _description(name))
    except MlflowException as error:
        if is_absent(error):
            return None
        raise


def _look(name: str) -> RegisteredModel | None:
    """As `_touch`; None too where it was let go of while it was touched, which a server tells as a fault."""
    try:
        return _touch(name)
    except MlflowException:
        holder(name)  # raises where the server does not answer at all
        return None


def _age(model: RegisteredModel) -> float:
    """Seconds from the creation of a model to its last update."""
    return float(model.last_updated_timestamp - model.creation_timestamp) / 1000


def _break(name: str, found: RegisteredModel) -> None:
    """Put a lock aside whose holder has died; nothing happens where another was faster."""
    with contextlib.suppress(MlflowException):  # the next look at it tells what is true
        mlflow.MlflowClient().rename_registered_model(name + SUFFIX, _aside(name, found.tags.get(TOKEN, "")))
        log.warning("%s: broke the release lock that %s left", name, found.tags.get(WHO, "somebody"))


def _release(lock: Lock) -> None:
    """Let go, if it is held; the lock of another holder stays."""
    client = mlflow.MlflowClient()
    try:
        found = client.get_registered_model(lock.name + SUFFIX)
        if found.tags.get(TOKEN) != lock.token:
            return
        client.rename_registered_model(found.name, _aside(lock.name, lock.token))
        renamed = client.get_registered_model(_aside(lock.name, lock.token))
        if _age(renamed) < STALE_S:  # else somebody may be about to break it, and must find the name taken
            client.delete_registered_model(renamed.name)
    except MlflowException as error:
        if not is_absent(error) and error.error_code != "RESOURCE_ALREADY_EXISTS":
            log.warning("%s: the release lock stays until it is broken: %s", lock.name, error.message)


def _aside(name: str, token: str) -> str:
    return f"{name}{SUFFIX}-{token}"


def _description(name: str) -> str:
    return f"Held while the champion of {name} is moved; gone when that is done. Not a model."


def _taken(name: str, found: RegisteredModel) -> str:
    return (
        f"{name}: {found.tags.get(WHO, 'somebody')} holds the release lock since "
        f"{found.tags.get(SINCE, 'an unknown time')} ({_age(found):.0f} s); try again later. If that process "
        f"has died, the lock is broken {STALE_S / 60:.0f} minutes after it was taken; to do so at once, "
        f"delete the registered model {name}{SUFFIX}"
    )
