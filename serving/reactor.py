"""gRPC's C core on one thread: calls come in, batches are answered, answers go out.

grpcio's own servers hand every call from the thread that polls to a thread of a pool and back, four times or
more, and the threads wait for one another's lock: half of what a search costs is that. Here one thread polls
the completion queue. While there are events it reads calls and messages; as soon as there are none left, or a
whole batch waits, it answers one. Calls that come one by one, with pauses between them, are answered as soon
as they have been read. Nothing is handed over, nothing is locked. A process has one reactor; several cores
are for several processes.

Left to itself gRPC reads connections on threads of its EventEngine, and wakes the reactor for each call. The
package (`__init__.py`) has it listen with the poller of the completion queue instead, so that the thread that
answers is also the one that reads: a fifth more requests a second on one core, and two workers answer 1.7
times as many as one where it was 1.4. Its polls look at one connection each, so that one without an event
does not yet mean that nothing waits.

It stands on `grpc._cython.cygrpc`, which is what grpcio's own servers are made of and no public interface; so
pyproject.toml bounds the version of grpcio, and a test names what is used of it.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from protos.errors import DeadlineExceeded, Overloaded, Unavailable
from serving.batching import BATCH_COST, Batcher, Job
from serving.cells import HEARTBEAT, OTHER
from serving.guard import Guard
from serving.limits import Bounds
from serving.methods import Method
from serving.observer import Observer
from serving.refusals import IDLE_SHARE, Refusals
from serving.rpc import NO_FLAGS, Rpc
from serving.status import status, trailers
from serving.stream_rpc import StreamRpc
from serving.unsent import UNCOUNTED, Unsent

log = logging.getLogger(__name__)

MESSAGE_SECONDS = 0.5  # after which a call without its message no longer counts as one that waits
IDLE_STREAM_SECONDS = 5.0  # without a message, after which a stream is ended where another needs its room
IDLE_SPARE_STREAM_SECONDS = 0.2  # the same, of a caller that has more streams than others
IDLE_SECONDS = 0.05  # between looks at what other threads want
EMPTY = 2  # looks without an event that tell that nothing waits: one may have read a part of a call
READ_ON = 1024  # events that are still read while a whole batch waits: what is refused is refused at once
ALONE_NS = 50_000  # without work, after which a call comes alone
ALONE = 16  # such calls in a row, after which nobody else is looked for before one is answered
SHUTDOWN = "shutdown"


class Reactor:
    """Serves methods until it is stopped.

    Args:
        methods: by path.
        batcher: answers their jobs.
        observer: told of every call.
        guard: says who may call what.
        bounds: of queries that wait, and of calls of many requests that are open; one more is refused.
        window: requests of each of those on their way at once.
        options: of gRPC's C core.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        batcher: Batcher,
        observer: Observer,
        guard: Guard,
        bounds: Bounds,
        window: int,
        options: Sequence[tuple[str, int]],
    ) -> None:
        self.observer = observer
        self.window = window
        self._methods = methods
        self._batcher = batcher
        self._guard = guard
        self._bounds = bounds
        self._due = 0  # operations that gRPC has not yet finished
        self._extra = 0
        self._empty = 0
        self._alone = 0  # calls in a row that came when there was nothing to do
        self._free_since = 0  # when the last batch was answered, in `time.perf_counter_ns()`
        self._brought: dict[bytes, int] = {}  # calls of each connection since the last batch of an overload
        self._refusals = Refusals()
        self.unsent = Unsent(bounds.connection_unsent_bytes, bounds.unsent_bytes)
        self.awaiting_message: dict[Rpc, None] = {}  # calls whose message has not come yet, oldest first
        self.late_messages: dict[Rpc, None] = {}  # those that have waited for it for `MESSAGE_SECONDS`
        self.last_calls: dict[bytes, int] = {}  # peer -> when its last call or message came, perf_counter_ns
        self._streams: dict[StreamRpc, None] = {}  # in the order of their last messages
        self._is_shut = False
        self._soon: deque[Callable[[], None]] = deque()
        self._completed = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._completed)
        self._thread = threading.Thread(target=self._run, name="reactor", daemon=True)

    # From any thread.

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen there; the port, which the system chooses where it is 0.

        Raises:
            Unavailable: nobody can listen there, most likely because somebody does.
        """
        secure = () if credentials is None else (vars(credentials)["_credentials"],)
        try:
            port = int(self._server.add_http2_port(address.encode(), *secure))
        except RuntimeError:
            port = 0
        if port == 0:
            raise Unavailable(f"{address}: cannot listen there; is the port in use?")
        return port

    def begin(self) -> None:
        """Take calls from now on."""
        self._server.start()
        self._await_call()
        self._thread.start()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call this on the reactor's thread, within `IDLE_SECONDS`."""
        self._soon.append(function)

    def stop(self, grace_seconds: float) -> None:
        """Take no new call, finish those there are, and return.

        Args:
            grace_seconds: calls that take longer than this are broken off.
        """
        if not self._thread.is_alive():
            return
        # On the reactor's thread, when it has read all there is: what nobody has read is broken off.
        self.call_soon(self._shut_down)
        self._thread.join(grace_seconds)
        if self._thread.is_alive():
            self._shut_down()
            self._server.cancel_all_calls()
            self._thread.join()
        self._server.destroy()  # not by the reactor, which may be done before `shutdown` has returned here

    # On the reactor's thread.

    def start(self, call: Any, operations: Sequence[Any], finished: Callable[[Any], None]) -> None:
        """Have gRPC do something for a call; `finished` gets the event of it."""
        call.start_server_batch(operations, finished)
        self._due += 1

    def submit(self, job: Job, rpc: Rpc) -> None:
        """Let a call's job wait for a batch.

        Raises:
            Overloaded: too much waits already, or the client has too many answers to read.
        """
        queries = len(job.prepared)
        waiting = self._batcher.short_queries
        is_stream = isinstance(rpc, StreamRpc)
        if is_stream:
            self._batcher.overload.called(waiting)
        if (
            job.cost > BATCH_COST or queries > self._batcher.most
        ):  # long jobs wait by themselves, and are no sign of an overload
            waiting = self._batcher.long.queries
            if waiting and waiting + queries > self._bounds.room:
                raise self._batcher.refusal(is_long=True)
        elif waiting and waiting + queries > self._room():
            raise self._overloaded()
        if job.answer_bytes > UNCOUNTED and not is_stream:
            rpc.reserve(job.answer_bytes)
        rpc.job = job
        # A stream may have been open for long before this message of it came.
        job.arrived = time.perf_counter_ns() if is_stream else rpc.arrived
        job.check = rpc.check
        comes_alone = not (waiting or is_stream) and job.arrived - self._free_since > ALONE_NS
        self._alone = self._alone + 1 if comes_alone else 0
        self._batcher.submit(job)

    def answered(self, rpc: Rpc, job: Job) -> None:
        """A job's answer has been sent."""
        try:
            self.observer.answered(rpc, job)
        except Exception:  # whoever is told of it must not harm the others of its batch
            log.exception("nobody could be told of an answer")

    def ended(self, rpc: Rpc, code: int) -> None:
        """A call is over."""
        try:
            self.observer.ended(rpc, code)
        except Exception:  # as above
            log.exception("nobody could be told of the end of a call")
        rpc.job = None  # which holds the call: in a circle neither would be freed at once

    def enter_stream(self, rpc: StreamRpc) -> bool:
        """Whether there is room for one more call of many requests; the call fails if not."""
        if len(self._streams) >= self._bounds.streams and not self._end_idle_stream(rpc):
            rpc.fail(Overloaded(f"all {self._bounds.streams} streams are in use", 1.0))
            return False
        self._streams[rpc] = None
        self.observer.streams(len(self._streams))
        return True

    def message_of_stream(self, rpc: StreamRpc) -> None:
        """A stream has sent a request or taken an answer: it goes to the end of the order of idleness."""
        if self._streams.pop(rpc, True) is None:
            self._streams[rpc] = None
            self.last_calls[rpc.connection] = time.perf_counter_ns()

    def leave_stream(self, rpc: StreamRpc) -> None:
        """One of them is over."""
        self._streams.pop(rpc, None)
        self.observer.streams(len(self._streams))

    def _end_idle_stream(self, newcomer: StreamRpc) -> bool:
        """End the stream that has been idle for longest, if that is long; whether there was one.

        A caller with more streams than the newcomer's keeps an idle one for a shorter time, so one caller
        cannot hold all of them by opening them again.
        """
        held = Counter(stream.caller for stream in self._streams)
        most = held[newcomer.caller] + 1
        now = time.perf_counter_ns()
        for stream in self._streams:
            may_be_idle = IDLE_STREAM_SECONDS if held[stream.caller] <= most else IDLE_SPARE_STREAM_SECONDS
            if now - stream.active_at > may_be_idle * 1e9 and not stream.is_working:
                stream.fail(Overloaded("this stream was idle, and another needed its room", 1.0))
                self.leave_stream(stream)
                return True
        return False

    def _shut_down(self) -> None:
        self._server.shutdown(self._completed, SHUTDOWN)

    def _run(self) -> None:
        poll, batcher, row = self._completed.poll, self._batcher, self.observer.metrics.row
        while not (self._is_shut and self._due == 0):
            row[HEARTBEAT] += 1.0
            busy = batcher.queries or self._soon or self._refusals
            event = poll(0.0 if busy else time.time() + IDLE_SECONDS)
            if event.completion_type == cygrpc.CompletionType.queue_timeout:
                self._empty += 1
                if batcher.queries and self._empty < EMPTY:
                    continue
                self._run_soon()
                if batcher.queries:
                    self._answer()
                elif self._refusals:
                    self._catch_up()
            else:
                self._empty = 0
                self._handle(event)
                if self._alone > ALONE and batcher.short_queries:
                    self._answer()
                elif batcher.is_full:
                    self._extra += 1
                    if self._extra > READ_ON:
                        self._answer()
            event = None  # or what it holds would live until the next one comes

    def _answer(self) -> None:
        self._extra = self._empty = 0
        self._brought.clear()
        self._run_soon()  # or it would wait for as long as there is no pause
        try:
            self._batcher.answer()
            self._refusals.pay()
        except Exception:
            log.exception("a batch could not be answered, or a call not be refused")
        self._free_since = time.perf_counter_ns()

    def _catch_up(self) -> None:
        """Nothing waits for an answer: see to those who wait for a refusal."""
        try:
            if self._batcher.overload.is_on:
                self._refusals.pay(IDLE_SHARE)
            else:
                self._refusals.settle(self._room() - len(self.awaiting_message))
        except Exception:
            log.exception("a call could not be refused")

    def _handle(self, event: Any) -> None:
        if event.tag is SHUTDOWN:
            self._is_shut = True
            return
        self._due -= 1
        try:
            event.tag(event)
        except Exception:
            log.exception("an event could not be dealt with")

    def _run_soon(self) -> None:
        while self._soon:
            try:
                self._soon.popleft()()
            except Exception:
                log.exception("something could not be done")

    def _await_call(self) -> None:
        try:
            self._server.request_call(self._completed, self._completed, self._called)
        except ValueError:  # `stop` has begun to shut it down, on another thread
            return
        self._due += 1

    def _called(self, event: Any) -> None:
        """A call has come in."""
        if not event.success:
            return  # the server is being shut down
        self._await_call()
        path = event.call_details.method.decode("utf-8", "replace")
        method = self._methods.get(path)
        if method is None:
            self.observer.turned_away(OTHER, grpc.StatusCode.UNIMPLEMENTED, None)
            self._turn_away(event, cygrpc.StatusCode.unimplemented, b"there is no such method")
            return
        try:
            token_name = self._guard.check(path, event.invocation_metadata)
        except Exception as denied:
            self._refuse(event, method, denied)
            return
        self.last_calls[event.call.peer()] = time.perf_counter_ns()
        error = None if method.always else self._too_much(event.call)
        if error is None:
            self._begin(event, method, token_name)
        else:
            self._refusals.add(
                lambda: self._refuse(event, method, error), lambda: self._begin(event, method, token_name)
            )

    def _begin(self, event: Any, method: Method, token_name: str | None) -> None:
        self.observer.began()
        method.rpc(self, method, event, token_name)

    def _too_much(self, call: Any) -> Overloaded | None:
        """Why a call is refused; None where it is not. Noted now, however late it is told."""
        if self.awaiting_message:
            self._pass_over_late_messages()
        self._batcher.overload.called(self._batcher.short_queries + len(self.awaiting_message))
        if not self._has_room():
            error = self._overloaded()
            self._shed(error)
            return error
        if self._is_fair(call):
            return None
        # Connections so few that the queue would hold all their calls must not be refused for good.
        many = self._batcher.short_queries + len(self._refusals) >= self._bounds.queue
        return self._overloaded() if many else self._batcher.refusal()

    def _overloaded(self) -> Overloaded:
        """There is no room for one more: how to refuse it. An overload lasts from here on."""
        if self._batcher.overload.is_on:
            self._batcher.overload.refused()
        return self._batcher.refusal()

    def _room(self) -> int:
        """How many queries may wait: what a pause leaves, and little more than a batch in an overload."""
        return self._bounds.overload_queue if self._batcher.overload.is_on else self._bounds.room

    def _shed(self, error: Exception) -> None:
        """Refuse what has waited longest in a burst that has turned out to be an overload."""

        def drop(job: Job) -> None:
            job.error = error
            job.done(job)

        for job in self._batcher.shed(self._room()):
            self._refusals.add(partial(drop, job), partial(self._batcher.submit, job))

    def _is_fair(self, call: Any) -> bool:
        """Whether a connection may have one more call wait, for others have their share in an overload, too.

        An answer makes room for a call on its own connection. So without this, those that are answered would
        be those that are answered next, as fast as they can ask, and others would wait for nothing.
        """
        if not self._batcher.overload.is_on:
            return True
        connection = call.peer()
        brought = self._brought[connection] = self._brought.get(connection, 0) + 1
        return brought <= self._bounds.fair_share

    def _has_room(self) -> bool:
        """Whether one more query may wait.

        A call counts from when it comes in, or many would be read only to be refused. One whose message has
        not come after `MESSAGE_SECONDS` no longer counts, since a client that opens calls and sends no more
        would keep all others out.
        """
        return self._batcher.short_queries + len(self.awaiting_message) < self._room()

    def _pass_over_late_messages(self) -> None:
        """No longer count the calls whose message is late, and end the oldest if they are too many."""
        late_since = time.perf_counter_ns() - MESSAGE_SECONDS * 1e9
        awaiting, late = self.awaiting_message, self.late_messages
        while awaiting and (oldest := next(iter(awaiting))).arrived < late_since:
            del awaiting[oldest]
            late[oldest] = None
        while len(late) > self._bounds.room:
            oldest = next(iter(late))
            del late[oldest]
            oldest.fail(DeadlineExceeded("the message of this call has not come, and others need its room"))

    def _refuse(self, event: Any, method: Method, error: Exception) -> None:
        code, text = status(error)
        self.observer.turned_away(method.name, code, error)
        self._turn_away(event, code.value[0], text.encode(), trailers(error))

    def _turn_away(
        self, event: Any, code: int, details: bytes, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        """End a call before its message is read."""
        operations = (
            cygrpc.SendInitialMetadataOperation(None, NO_FLAGS),
            cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),
            cygrpc.SendStatusFromServerOperation(metadata, code, details, NO_FLAGS),
        )
        self.start(event.call, operations, _nothing)


def _nothing(event: Any) -> None:
    """A call that was turned away is over."""
