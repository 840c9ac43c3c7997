"""The catalogue's process, one for each host: it commits the writes of all workers, and encodes their items.

It takes all writes that wait and commits them in one transaction, so a flush of the disk serves many. When
their items are encoded for the bundles that answer, it replies: a reply says which items cannot be encoded.
Reads have a thread and a connection of their own. If the store cannot be used, writes are refused with the
reason, and searches are answered as before.
"""

import json
import logging
import os
import pickle
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos.bundle import Snapshot
from twinspire.protos.errors import ConfigError, InvalidInput, Overloaded, TwinspireError, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.serving.live.config import CatalogueConfig
from twinspire.serving.live.encoded_items import LOCK, position_of
from twinspire.serving.live.encoding.bundle_encoders import BundleEncoders, prune
from twinspire.serving.live.process.frames import (
    Channel,
    Frame,
    FrameKind,
    FrameServer,
    PendingRequest,
    Requests,
    take_group,
)
from twinspire.serving.live.store.database import CATALOGUE as STORE
from twinspire.serving.live.store.database import detail, operator_errors
from twinspire.serving.live.store.records import Change, Position, WriteRequest, check_answer_size
from twinspire.serving.live.store.store import RETRY_SECONDS, Store, StoreRolledBack
from twinspire.serving.shared_state import CATALOGUE, SharedState
from twinspire.serving.supervisor import Heartbeat, WorkerHandle
from twinspire.serving.wire.converters import value_to_wire

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # seconds between polls for other hosts' changes, while nothing is written
# For which a reply waits until its items are encoded; the reasons of failed items are missing then.
REPLY_WAIT_SECONDS = 20.0
GROUP_ITEMS = 4096  # items of one transaction, after which no request is added to it
COUNT_SECONDS = 1.0  # between two counts of the items, at least
COUNT_REST = 50  # the next count follows after 50 times the duration of the last, at least
LONGEST_ERROR = 500  # characters of an error in shared memory
LOCK_SECONDS = 10.0  # in which a service that was killed ends, besides its time to finish requests


class _Committed(NamedTuple):
    """A write that is stored and has no reply yet; `until` is by `time.monotonic`."""

    request: PendingRequest
    outcome: wire.WriteResponse
    until: float


class CatalogueProcess:
    """Owns the store; created in its own process, which calls `run`.

    Args:
        config: of the store.
        channel: to the workers.
        shared_state: with the entries `TARGET` and `CATALOGUE`.
        grace: seconds for the workers to finish when the service stops.
        heartbeat: of this process; a database may take up to `PATIENCE_SECONDS` between two beats.
    """

    def __init__(
        self,
        config: CatalogueConfig,
        channel: Channel,
        shared_state: SharedState,
        grace: float,
        heartbeat: Heartbeat,
    ) -> None:
        self._config, self._shared_state, self._grace = config, shared_state, grace
        self._heartbeat = heartbeat
        self._writes: Requests = SimpleQueue()
        self._reads: SimpleQueue[PendingRequest | None] = SimpleQueue()  # None ends the thread that reads
        self._lock = threading.Lock()
        self._committed: list[_Committed] = []  # in the order of their sequences, without a reply yet
        self._frames = FrameServer("catalogue", channel, self._receive)
        self._store: Store | None = None
        self._encoders: BundleEncoders | None = None
        self._error = ""
        self._due = self._count_due = 0.0
        self._entry: dict[str, Any] = shared_state.read(CATALOGUE)
        self._dropped: str = self._entry.get("dropped", "")  # why the store is no longer used; or empty
        # Id and last known position of the store; at first, when this service or the process before used it.
        self._store_id: str = self._entry["store_id"]
        self._known = Position(self._entry["sequence"], self._entry["mark"])
        self._counts = (0, 0)
        self._counted: tuple[int, int | None] = (-1, 0)  # sequence and base for which `_counts` holds
        self._commits = self._writes_done = 0
        self._commit_seconds = 0.0

    def run(self, handle: WorkerHandle) -> None:
        """Work until the service stops and the workers have ended their calls."""
        self._heartbeat.reset()
        reading = threading.Thread(target=self._read, name="reader", daemon=True)
        reading.start()
        self._open()
        self._frames.start()
        handle.ready()
        until = self._frames.work(handle, self._grace, self.step)
        self._reads.put(None)
        reading.join(max(0.0, until - time.monotonic()))
        self._frames.stop()
        if self._encoders is not None:
            self._encoders.close(max(0.0, until - time.monotonic()))
        if self._store is not None:
            self._store.close()

    def step(self, seconds: float = POLL_SECONDS) -> None:
        """Carry out the writes that wait; wait up to `seconds` if there are none."""
        self._heartbeat.beat()
        group = take_group(self._writes, seconds, GROUP_ITEMS)
        if self._store is None and time.monotonic() >= self._due:
            self._open()
        outcomes: Sequence[wire.WriteResponse | TwinspireError] = []
        if self._store is None or self._encoders is None:
            outcomes = [Unavailable(self._error)] * len(group)
        elif group:
            outcomes = self._commit(self._store, self._encoders, group)
        else:
            self._follow(self._store)
        self._heartbeat.beat()
        until = time.monotonic() + REPLY_WAIT_SECONDS
        for request, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, wire.WriteResponse):
                with self._lock:
                    self._committed.append(_Committed(request, outcome, until))
            else:
                request.refuse(outcome)
        if self._encoders is not None:
            self._encoders.follow(self._known)
        self._publish()
        self._reply()

    def _receive(self, request: PendingRequest) -> None:
        (self._writes if request.frame.kind == FrameKind.WRITE else self._reads).put(request)

    # Writes.

    def _commit(
        self, store: Store, encoders: BundleEncoders, group: Sequence[PendingRequest]
    ) -> list[wire.WriteResponse | TwinspireError]:
        """Carry out a group in one transaction; if that fails in an unforeseen way, in halves.

        So the one at fault is refused, and neither ends this process nor keeps the others from being written.
        """
        if refusal := _refusal(store, self._known, encoders):
            return [refusal] * len(group)
        started = time.monotonic()
        try:
            requests: list[WriteRequest] = [pickle.loads(each.frame.payload) for each in group]
            outcomes = store.write(requests, encoders.lowest_snapshot, self._known)
        except StoreRolledBack as error:
            self._drop(error)
            return [Unavailable(self._error)] * len(group)
        except Unavailable as error:
            self._fail(error)
            return [Unavailable(self._error)] * len(group)
        except Exception:  # of any kind: the workers would send it again to the next process
            if (half := len(group) // 2) > 0:
                self._heartbeat.beat()
                halves = group[:half], group[half:]
                return [each for part in halves for each in self._commit(store, encoders, part)]
            log.exception("a write has failed, and nothing of it was written")
            return [TwinspireError("the write has failed, and nothing was written; the log says why")]
        self._error = ""
        done = [each for each in outcomes if isinstance(each, wire.WriteResponse)]
        self._known = store.written
        self._commits += 1
        self._writes_done += sum(
            not result.error for each in done if not each.repeated_request for result in each.results
        )
        self._commit_seconds += time.monotonic() - started
        return outcomes

    def _reply(self) -> None:
        """Reply to the writes whose items are encoded; if encoding fails, to all, because they are stored.

        Called on any thread.
        """
        with self._lock:
            encoders = self._encoders
            if not self._committed or encoders is None:
                return
            encoded, now = encoders.sequence, time.monotonic()
            pending = []
            for each in self._committed:
                request, outcome, until = each
                is_encoded = encoded is not None and encoded >= outcome.sequence
                if is_encoded or encoders.error or until <= now or not encoders.serves:
                    request.answer(outcome.sequence, self._response(encoders, outcome))
                else:
                    pending.append(each)
            self._committed = pending

    def _response(self, encoders: BundleEncoders, answer: wire.WriteResponse) -> bytes:
        for each in answer.results:
            if not each.error and (why := encoders.failure(each.sequence)):
                each.error, each.error_text = wire.WRITE_NOT_ENCODED, why
        return answer.SerializeToString()

    def _follow(self, store: Store) -> None:
        """Read the store's sequence, which other hosts may have raised."""
        try:
            self._known = store.position(self._known)
            self._error = ""
        except StoreRolledBack as error:
            self._drop(error)
        except Unavailable as error:
            self._fail(error)

    # Reads, on a thread of their own.

    def _read(self) -> None:
        store: Store | None = None
        while (request := self._reads.get()) is not None:
            if self._dropped:
                request.refuse(Unavailable(self._dropped))
                continue
            try:
                if store is None:
                    store = self._opened()
                sequence, message = self._read_one(store, request.frame)
                request.answer(sequence, message)
            except InvalidInput as error:
                request.refuse(error)
            except TwinspireError as error:
                request.refuse(Unavailable(str(error)))
            except Exception:  # of any kind: the next one may succeed
                log.exception("a read of the catalogue has failed")
                request.refuse(Unavailable("the catalogue cannot be read now; the log says why"))
        if store is not None:
            store.close()

    def _read_one(self, store: Store, frame: Frame) -> tuple[int, bytes]:
        arguments = json.loads(frame.payload)
        sequence = store.position(self._known, self._store_id).sequence
        if frame.kind == FrameKind.GET:
            ids = arguments["ids"]
            response = _get_response(ids, store.get(ids), sequence)
            check_answer_size(response, arguments["bytes"])
            return sequence, response.SerializeToString()
        changes = store.page(arguments["after"], arguments["limit"]).changes
        page = _changes_response(changes, sequence, store.store_id, arguments["bytes"])
        return sequence, page.SerializeToString()

    # The store and the shared state.

    def _open(self) -> None:
        """Open the store, or keep the reason why it cannot be opened; `step` tries again."""
        self._due = time.monotonic() + RETRY_SECONDS
        if self._dropped:
            self._error = self._dropped
            return
        try:
            self._store = self._opened()
        except StoreRolledBack as error:
            self._drop(error)
        except TwinspireError as error:
            self._fail(error)
        else:
            self._error = ""
            self._encoders = BundleEncoders(
                self._shared_state, self._store_id, self._opened, self._config.place, self._reply
            )

    def _opened(self) -> Store:
        """A connection of its own for a thread.

        Raises:
            StoreRolledBack: it leads to another store than before.
            ConfigError, Unavailable: the store cannot be opened now.
        """
        store = Store.open(self._config.url, create=False)
        try:
            store.position(self._known, self._store_id)
        except TwinspireError:
            store.close()
            raise
        return store

    def _drop(self, error: StoreRolledBack) -> None:
        """Stop using the store until the service is restarted, also if this process is started anew.

        The store may grow past its earlier sequence. Then nothing would show that its changes differ from
        those that were encoded.
        """
        self._fail(error)
        self._dropped = self._error
        with self._lock:
            committed, self._committed = self._committed, []
        for each in committed:
            each.request.refuse(Unavailable(f"{self._error}; whether this was written is not known"))
        if self._encoders is not None:
            self._encoders.close(0.0)
        if self._store is not None:
            self._store.close()
        self._store = self._encoders = None

    def _fail(self, error: TwinspireError) -> None:
        reason = str(error)
        if reason != self._error:
            log.error("%s%s", error, detail(error))
        self._error = reason

    def _publish(self) -> None:
        """Write the shared entry `CATALOGUE`, if something in it has changed."""
        store, encoders = self._store, self._encoders
        entry = {**self._entry, "pid": os.getpid(), "last_error": self._error[:LONGEST_ERROR]}
        if store is not None and encoders is not None:
            entry |= {
                "store_id": store.store_id,
                "sequence": self._known.sequence,
                "mark": self._known.mark,
                "encoded": encoders.sequence or 0,
                "bounds": asdict(store.bounds),
                "bundles": encoders.document(),
                "last_error": (self._error or encoders.error)[:LONGEST_ERROR],
                "commits": self._commits,
                "writes": self._writes_done,
                "commit_seconds": round(self._commit_seconds, 3),
            }
            base = encoders.lowest_snapshot
            counted = self._known.sequence, base
            if base is not None and counted != self._counted and time.monotonic() >= self._count_due:
                started = time.monotonic()
                with suppress(Unavailable):
                    self._counts = store.count(base)
                    self._counted = counted
                taken = time.monotonic() - started
                self._count_due = started + max(COUNT_SECONDS, COUNT_REST * taken)
            entry["live_items"], entry["tombstones"] = self._counts
        if self._dropped:
            entry["dropped"] = self._dropped
        if entry != self._entry:
            self._entry = entry
            self._shared_state.write(CATALOGUE, entry)


def _refusal(store: Store, known: Position, encoders: BundleEncoders) -> TwinspireError | None:
    """Why no write may be carried out now; None if one may."""
    encoded, most = encoders.sequence, store.bounds.max_lag
    if encoded is not None and (lag := known.sequence - encoded) > most:
        text = f"encoding is at sequence {encoded}, {lag} behind the store, at most {most}"
        return Overloaded(f"{text}; send the request again later", RETRY_SECONDS)
    if encoders.error:
        text = "the items of a bundle cannot be encoded now, and nothing was written"
        return Unavailable(f"{text}: {encoders.error}")
    return None


def initial_catalogue_entry(
    config: CatalogueConfig, snapshot: Snapshot | None, held: ExitStack, grace: float
) -> dict[str, Any]:
    """The initial entry `CATALOGUE`, read from the store before the processes of the service have started.

    The store is created if it does not exist. It gets another id if it was restored from a copy.

    Args:
        config: of the store.
        snapshot: the state of a store from which the bundle was built.
        held: keeps other services from what is encoded of the store until it is closed.
        grace: seconds that a service before this one may need to finish its requests.

    Raises:
        ConfigError: the store is not one, or is damaged; or another service uses what is encoded of it.
        Unavailable: the store does not answer.
    """
    with operator_errors(config.url, STORE):
        opened = Store.open(config.url, config.bounds, check=True)
    with closing(opened) as store:
        folder = config.place / store.store_id
        if _is_restored(store, folder, snapshot):
            store.assign_new_id()
            log.warning(
                "the store was restored from a backup, or is a copy of another store; it now has the id %s: "
                "its items are encoded anew, and clients that follow its changes have to begin again",
                store.store_id,
            )
            with suppress(ConfigError), ExitStack() as unused:  # a service may use the store that was copied
                _reserve(folder, unused, grace)
                prune(folder)
        _reserve(config.place / store.store_id, held, grace)
        position = store.position()
        return {
            "store_id": store.store_id,
            "sequence": position.sequence,
            "mark": position.mark,
            "bounds": asdict(store.bounds),
            "last_error": "",
        }


def _reserve(folder: Path, held: ExitStack, grace: float) -> None:
    """Keep other services from the encoded items of a store.

    Raises:
        ConfigError: another service uses them, or the folder cannot be made.
    """
    busy = ConfigError(
        f"{folder}: another service of this host encodes the items of this store, or of a copy of it, "
        "or a service that was killed has not ended yet; set TWINSPIRE_CACHE to another folder for this one"
    )
    until = time.monotonic() + LOCK_SECONDS + grace
    while True:
        try:
            held.enter_context(exclusive_lock(folder / LOCK, busy))
            return
        except ConfigError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_SECONDS)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from None


def _is_restored(store: Store, folder: Path, snapshot: Snapshot | None) -> bool:
    """Whether encoded items or a bundle that name the store's id are of changes that it has not made."""
    known = [position_of(each) for each in folder.glob("*")]
    if snapshot is not None and snapshot.store == store.store_id:
        known.append(Position(snapshot.sequence, snapshot.mark))
    return any(each is not None and store.was_at(each) is False for each in known)


def _get_response(ids: Sequence[str], found: Mapping[str, Change], sequence: int) -> wire.GetResponse:
    """Items as the store holds them, one for each id."""
    response = wire.GetResponse(sequence=sequence)
    for item_id in ids:
        stored = found.get(item_id)
        if stored is None:
            response.items.add(item=wire.Item(id=item_id), origin=wire.ITEM_UNKNOWN)
        else:
            _fill_state(response.items.add(), stored)
    return response


def _changes_response(
    changes: Iterable[Change], sequence: int, store_id: str, max_bytes: int
) -> wire.ChangesResponse:
    """A part of the feed: of these changes as many as fit, and at least one if there is one."""
    response = wire.ChangesResponse(sequence=sequence, store_id=store_id)
    size = 0
    for each in changes:
        state = wire.ItemState()
        _fill_state(state, each)
        size += state.ByteSize()
        if response.changes and size > max_bytes:
            break
        response.changes.append(state)
    return response


def _fill_state(state: wire.ItemState, change: Change) -> None:
    """Fill a message with an item as the store holds it."""
    state.item.id = change.item_id
    state.sequence, state.written_at = change.sequence, change.written_at
    state.origin = wire.ITEM_DELETED if change.deleted else wire.ITEM_LIVE
    for name, value in change.features.items():
        if value is not None:
            state.item.features[name].CopyFrom(value_to_wire(value))
    for name, text in change.fields.items():
        state.item.fields[name] = text
