"""One release at a time, on any MLflow server: a lock that lives in its model registry.

Aliases are last-writer-wins, but the name of a registered model is unique, and the server itself sees to
that. So the lock of `pydocs` is the registered model `pydocs.release-lock`: who creates it holds it, and
its tags, written in the same transaction, say who that is.

A holder that was killed leaves its lock behind. A process on the same host breaks such a lock at once. A
process on another host breaks it when it is `STALE_S` seconds old by the clock of the server.

A lock is broken by renaming its model to a name that ends in the lock's token. The server allows each name
once, so only one process can break a lock. The renamed model is kept, with tags that say who broke the lock
and why. A holder releases its lock by the same renaming, and then deletes the renamed model unless the lock
is old enough to be broken: a process that is about to break it must find the name taken.

A process must not break another lock than the one whose holder it found dead. So it reads the lock again
after it has found the holder dead, and compares the tokens. A dead holder cannot release its lock any more,
so from then on the lock can only be broken, and only once.
"""

import dataclasses
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

from export.holder import Holder, printable
from export.markdown import one_line
from protos.errors import Unavailable
from train.tracking import is_absent, unreachable

SUFFIX = ".release-lock"
STALE_S = 300.0  # a release holds it for a second or two
WAIT_S = 30.0
POLL_S = 0.2
TOLD_LENGTH = 500  # characters that are shown of a text from the registry
MOST_TOLD = 3  # broken locks that a record names
WHO, SINCE, TOKEN = "twinspire.holder", "twinspire.since", "twinspire.token"
BROKEN_BY, BROKEN_AT, BROKEN_WHY = "twinspire.broken_by", "twinspire.broken_at", "twinspire.broken_because"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lock:
    """The lock of one registered model, held by this process.

    Args:
        name: of the registered model whose champion it guards.
        token: of this holder, and no other.
        broke: the locks that were broken to take this one: who held each, since when, and why it was broken;
            of more than three, the first three and how many more.
    """

    name: str
    token: str
    broke: tuple[str, ...] = ()

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
        Unavailable: another process still holds it, and the text says which, since when and until when; or
            MLflow does not answer.
    """
    lock = Lock(name, uuid.uuid4().hex)
    try:
        try:
            broke = _take(lock, who, time.monotonic() + (WAIT_S if wait_s is None else wait_s))
        except MlflowException as error:
            raise unreachable(error) from None
        yield dataclasses.replace(lock, broke=broke)
    finally:
        _release(lock)


def holder(name: str) -> str:
    """User and host of the process that holds the lock of a registered model; empty if none does.

    A lock whose holder has ended on this host is held by none.
    """
    try:
        found = mlflow.MlflowClient().get_registered_model(name + SUFFIX)
    except MlflowException as error:
        if is_absent(error):
            return ""
        raise unreachable(error) from None
    process = Holder.of(found.tags)
    return "" if process is not None and process.has_died() else _who(found)


def _take(lock: Lock, who: str, deadline: float) -> tuple[str, ...]:
    """Take the lock; returns what is said of the locks that were broken for it."""
    broke: list[str] = []
    failed = ""
    while not _create(lock, who):
        found = _look(lock.name)
        if found is not None:
            if found.tags.get(TOKEN) == lock.token:
                break  # the request went out twice, as its answer was lost
            why = _why_broken(lock.name, found)
            if why:
                try:
                    broke.append(_break(lock.name, found, who, why))
                except MlflowException as error:  # another process was faster, or the server fails
                    failed = f" ({one_line(error.message, TOLD_LENGTH)})"
                    time.sleep(POLL_S)
            elif time.monotonic() > deadline:
                raise Unavailable(_taken(lock.name, found))
            else:
                time.sleep(POLL_S)
        if time.monotonic() > deadline + WAIT_S:  # it cannot be broken, or has another holder at each look
            raise Unavailable(f"{lock.name}: the release lock could not be taken{failed}; try again")
    more = len(broke) - MOST_TOLD
    return (*broke[:MOST_TOLD], f"and {more} more") if more > 0 else tuple(broke)


def _create(lock: Lock, who: str) -> bool:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        mlflow.MlflowClient().create_registered_model(
            lock.name + SUFFIX,
            {WHO: who, SINCE: now, TOKEN: lock.token, **Holder.current().tags()},
            _description(lock.name),
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


def _why_broken(name: str, found: RegisteredModel) -> str:
    """Why a lock may be broken; empty if it may not."""
    if _age(found) >= STALE_S:
        return f"it was held for longer than {STALE_S:.0f} s"
    process = Holder.of(found.tags)
    if process is None or not process.has_died():
        return ""
    again = _look(name)  # it may have released the lock before it ended, and another may hold it by now
    if again is None or again.tags.get(TOKEN) != found.tags.get(TOKEN):
        return ""
    return "its process has ended"


def _break(name: str, found: RegisteredModel, who: str, why: str) -> str:
    """Break a lock; returns whose it was and why it was broken.

    Raises:
        MlflowException: it was not renamed, for example because another process did so first.
    """
    client, aside = mlflow.MlflowClient(), _aside(name, found.tags.get(TOKEN, ""))
    client.rename_registered_model(name + SUFFIX, aside)
    told = f"{_whose(found)}: {why}"
    log.warning("%s: broke the release lock of %s", name, told)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        for key, value in ((BROKEN_BY, who), (BROKEN_AT, now), (BROKEN_WHY, why)):
            client.set_registered_model_tag(aside, key, value)
    except MlflowException as error:
        log.warning("%s: cannot note on %s who broke it: %s", name, aside, error.message)
    return told


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


def _who(found: RegisteredModel) -> str:
    return one_line(printable(str(found.tags.get(WHO, "an unknown user"))), TOLD_LENGTH)


def _whose(found: RegisteredModel) -> str:
    """User, host, process and command of the holder of a lock, and since when it was held."""
    process = Holder.of(found.tags)
    told = _who(found) if process is None else f"{_who(found)} ({process})"
    return f"{one_line(told, TOLD_LENGTH)}, held since {_time(found.creation_timestamp)}"


def _time(timestamp: float) -> str:
    """Milliseconds since 1970 as UTC time, ISO 8601."""
    return datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec="seconds")


def _taken(name: str, found: RegisteredModel) -> str:
    until = _time(found.creation_timestamp + 1000 * STALE_S)
    return (
        f"{name}: the release lock is taken by {_whose(found)} ({_age(found):.0f} s), until {until} at the "
        "latest; try again later. The lock of a process that has ended is broken at once by a release on the "
        f"same host; to do so from another host before {until}, delete the registered model {name}{SUFFIX}"
    )
