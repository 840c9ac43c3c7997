"""One thread that polls a front, reads calls, answers batches and sends the answers.

grpcio's own servers pass each call from the polling thread to a thread of a pool and back, four times or
more, and these threads wait for one another's lock; that is half of the cost of a search. Here one thread
does everything. While there are events it reads calls and messages. When there are none, or a whole batch
waits, it answers a batch. Calls that arrive one by one, with pauses in between, are answered as soon as they
have been read. No thread waits for another, and there are no locks. A process has one event loop; several
cores need several processes.

By default gRPC reads connections on the threads of its EventEngine, and wakes the polling thread for each
call. The package (`serving/environment.py`) makes gRPC use the poller of the completion queue instead, so the
thread that answers also reads. That gives a fifth more requests per second on one core, and two workers
answer 1.7 times as many as one, instead of 1.4. Each poll looks at one connection, so a single poll without
an event does not mean that no call waits.
"""

import logging
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from twinspire.protos import catalogue_pb2, events_pb2
from twinspire.protos.errors import Unavailable
from twinspire.protos.system import logs
from twinspire.serving.engine.admission import Admission
from twinspire.serving.engine.batching import Batcher, Job
from twinspire.serving.engine.call import Call, Method
from twinspire.serving.engine.front import SHUTDOWN, Front, FrontCall
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.engine.stream_call import StreamCall
from twinspire.serving.engine.unsent import UNCOUNTED
from twinspire.serving.fair_queue import NOBODY, Client
from twinspire.serving.security.auth import Guard
from twinspire.serving.wire.status import Code, status, trailers

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.05  # longest poll, and so the longest delay of `call_soon`
DEFERRED_SECONDS = 0.001  # the same while a call waits for a deferred outcome
EMPTY = 2  # idle polls before the queue counts as empty; one poll may read only part of a call
LONG_SECONDS = 0.002  # of a poll before a slice, while several clients call
RIVAL_SECONDS = 0.01  # while several clients call, from one batch to the next although events wait, at most
READ_ON = 1024  # events to read while a whole batch waits, so that excess calls are refused at once
ALONE_NS = 50_000  # without work, after which an arriving call counts as lone
ALONE = 16  # lone calls in a row, after which a call is answered without polling for others
UNKNOWN_METHOD = "other"  # for observers
NO_METHOD = b"there is no such method"
CATALOGUE = catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"].full_name
EVENTS = events_pb2.DESCRIPTOR.services_by_name["Events"].full_name
NO_STORE = {  # service -> why it does not answer
    CATALOGUE: b"the service was started without --catalogue",
    EVENTS: b"the service was started without --events",
}
STOPPING = Unavailable("the service is stopping")
QUIET_SECONDS = 0.1  # without a new call, after which a loop that stops tells its front to shut down
REFUSE_SECONDS = 1.0  # in which new calls are refused before that, at most


class CallObserver(Protocol):
    """Counts, logs and traces calls."""

    @property
    def heartbeat(self) -> tuple[Any, int]:
        """A row of cells, and the cell to which the event loop adds 1 before each poll."""

    def began(self) -> None:
        """A call has been accepted; `ended` follows."""

    def turned_away(self, name: str, code: Code, error: Exception | None) -> None:
        """A call was refused before its message was read; `error` is None if there is no such method."""

    def failed(self, call: "Call", error: Exception) -> None:
        """A call is about to end with an error."""

    def answered(self, call: "Call", job: Job) -> None:
        """The answer of a job has been sent."""

    def ended(self, call: "Call", code: int) -> None:
        """A call is over, with the number of its status."""

    def streams(self, count: int) -> None:
        """Number of open streams."""


class CallDispatcher:
    """Accepts, refuses and observes calls: the `Dispatcher` of the calls of one event loop.

    Args:
        methods: by path.
        batcher: answers jobs.
        admission: decides which calls and jobs are accepted.
        observer: of calls.
        guard: checks tokens; None allows every call.
        caller: gives the name of the client that makes a call.
        window: requests of one stream that may be in progress at once.
        call_soon: of the event loop.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        batcher: Batcher,
        admission: Admission,
        observer: CallObserver,
        guard: Guard | None,
        caller: Callable[[Call], str],
        window: int,
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self.caller, self.window, self.call_soon = caller, window, call_soon
        self.unsent = admission.unsent
        self.await_message, self.message_arrived = admission.await_message, admission.message_arrived
        self.enter_stream, self.leave_stream = admission.enter_stream, admission.leave_stream
        self.failed = observer.failed
        self.idle_since = 0  # when the last batch was answered, in `time.perf_counter_ns()`
        self.lone_calls = 0  # in a row, that arrived while there was nothing to do
        self.last_calls: dict[bytes, int] = {}  # connection -> its last call or message, perf_counter_ns
        self.deferred: set[object] = set()  # outcomes that calls wait for
        self.wait_for, self.waited_for = self.deferred.add, self.deferred.discard
        # Monotonic time at which the loop began to stop or last refused a call; 0 while it accepts calls.
        self.refused_at = 0.0
        self.client = NOBODY  # of the last call that arrived
        self._methods = methods
        self._batcher, self._admission, self._clients = batcher, admission, batcher.clients
        self._observer, self._guard = observer, guard

    def dispatch(self, arriving: FrontCall) -> None:
        """Begin a call that has arrived, or refuse it now or later."""
        method = self._methods.get(arriving.path)
        if self.refused_at:
            self.refuse_new_calls()
            name = UNKNOWN_METHOD if method is None else method.name
            self._observer.turned_away(name, Code.UNAVAILABLE, STOPPING)
            arriving.reject(Code.UNAVAILABLE, str(STOPPING).encode())
            return
        connection, admission = arriving.connection, self._admission
        token_name = denied = None
        if method is not None and self._guard is not None:
            try:
                token_name = self._guard.check(arriving.path, arriving.metadata)
            except Exception as error:
                # Its traceback would hold the call until the next garbage collection, and so the stream.
                denied = error.with_traceback(None)
        client = self.client = self._clients.of(connection, token_name)
        now = time.perf_counter_ns()
        if method is None or not method.always:  # a health check is no rival
            self._clients.called(client, now)
        if method is None or denied is not None:
            refuse = partial(self._refuse, arriving, method, denied)
            admission.denials.add(refuse, refuse)
            return
        self.last_calls[connection] = now
        overloaded = None if method.always else admission.check_call(client, connection)
        if overloaded is None and not (self._clients.have_rivals or admission.arrived):
            self._begin(arriving, method, token_name, client)
            return
        begin = partial(self._begin, arriving, method, token_name, client)
        if overloaded is None:
            admission.begin(client, begin)
        else:
            admission.refusals.add(partial(self._refuse, arriving, method, overloaded), begin)

    def refuse_new_calls(self) -> None:
        """Refuse each call that arrives from now on, so that its client tries another server."""
        self.refused_at = time.monotonic()

    def submit(self, call: Call, job: Job) -> None:
        """Queue the job of a call.

        Raises:
            Overloaded: the queue is full, or the client has too many answers to read.
        """
        is_stream, job.client = call.is_stream, call.client
        is_queued = self._batcher.short_queries
        self._admission.check_job(job, is_stream)
        if job.answer_bytes > UNCOUNTED and not is_stream:
            call.reserve(job.answer_bytes)
        call.job = job
        # A stream may have been open for long before this message arrived.
        job.arrived = time.perf_counter_ns() if is_stream else call.arrived
        job.check = call.check
        is_lone = not (is_queued or is_stream) and job.arrived - self.idle_since > ALONE_NS
        self.lone_calls = self.lone_calls + 1 if is_lone else 0
        self._batcher.submit(job)

    def answered(self, call: Call, job: Job) -> None:
        """The answer of a job has been sent."""
        try:
            self._observer.answered(call, job)
        except Exception:  # must not affect the other jobs of the batch
            log.exception("the observer of an answer has failed")

    def ended(self, call: Call, code: int) -> None:
        """A call is over."""
        try:
            self._observer.ended(call, code)
        except Exception:  # as in `answered`
            log.exception("the observer of the end of a call has failed")
        call.job = None  # breaks the reference cycle of call and job, so both are freed at once

    def touch_stream(self, call: StreamCall) -> None:
        """A message of a stream has arrived or been sent, so it is not idle."""
        if self._admission.touch_stream(call):
            self.last_calls[call.connection] = time.perf_counter_ns()

    def _begin(self, arriving: FrontCall, method: Method, token_name: str | None, client: Client) -> None:
        self._observer.began()
        method.call_type(self, method, arriving, token_name, client)

    def _refuse(self, arriving: FrontCall, method: Method | None, error: Exception | None) -> None:
        if method is None or error is None:
            self._observer.turned_away(UNKNOWN_METHOD, Code.UNIMPLEMENTED, None)
            service = arriving.path.removeprefix("/").rpartition("/")[0]
            arriving.reject(Code.UNIMPLEMENTED, NO_STORE.get(service, NO_METHOD))
            return
        given = logs.request_id_in(arriving.metadata)
        with logs.answering(given):
            code, text = status(error)
        self._observer.turned_away(method.name, code, error)
        echoed = ((logs.REQUEST_ID, given),) if given else ()
        arriving.reject(code, text.encode(), (*trailers(error), *echoed))


class EventLoop:
    """Polls until it is stopped: calls arrive, batches are answered.

    Args:
        methods: by path.
        batcher: answers jobs.
        observer: of calls.
        guard: checks tokens; None allows every call.
        caller: gives the name of the client that makes a call.
        bounds: of queued queries and open streams; more are refused.
        window: requests of one stream that may be in progress at once.
        front: accepts the calls.
        between: applies some changes of live items; returns whether there are more. Called before each batch,
            and after polls without an event, for which an idle loop waits `IDLE_SECONDS` at most.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        batcher: Batcher,
        observer: CallObserver,
        guard: Guard | None,
        caller: Callable[[Call], str],
        bounds: WorkerLimits,
        window: int,
        front: Front,
        between: Callable[[], bool] | None = None,
    ) -> None:
        self.admission = Admission(bounds, batcher, observer.streams)
        self._batcher, self._clients = batcher, batcher.clients
        self._dispatcher = CallDispatcher(
            methods, batcher, self.admission, observer, guard, caller, window, self.call_soon
        )
        self._heartbeat = observer.heartbeat
        self._between = between
        self._soon: deque[Callable[[], None]] = deque()
        self._extra = 0  # events read while a whole batch waits
        self._empty = 0  # idle polls in a row
        self._batch_ended = 0.0  # when the last batch was, in `time.perf_counter()` seconds
        self._is_shut = self._has_slept = False
        self._front = front
        self._clock: int | None = None  # of the thread's processor time; set by the thread
        self._thread = threading.Thread(target=self._run, name="event-loop", daemon=True)

    # From any thread.

    @property
    def last_calls(self) -> dict[bytes, int]:
        """Connection -> its last call or message, in `time.perf_counter_ns()`."""
        return self._dispatcher.last_calls

    def processor_seconds(self) -> float:
        """Processor time of the loop's thread, in seconds; 0 after its end, and where no clock tells it."""
        try:
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        except OSError:  # the thread has ended
            return 0.0

    def start(self) -> None:
        """Accept calls from now on."""
        self._front.start()
        self._front.await_call(self._call_arrived)
        self._thread.start()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function on the event loop's thread.

        If the loop is idle, that is within `IDLE_SECONDS`; while a call waits for a deferred outcome, within
        `DEFERRED_SECONDS`.
        """
        self._soon.append(function)

    def stop(self, grace_seconds: float) -> None:
        """Accept no new call, finish the open ones, and return.

        Args:
            grace_seconds: calls that take longer are cancelled.
        """
        if not self._thread.is_alive():
            return
        until = time.monotonic() + grace_seconds
        self.call_soon(self._dispatcher.refuse_new_calls)
        self._await_quiet(until)
        # On the loop's thread, after it has read what has arrived; calls that it has not read are cancelled.
        self.call_soon(self._front.shut_down)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._front.shut_down()
            self._front.cancel_all_calls()
            self._thread.join()
        self._front.destroy()  # not on the loop's thread, which may end before `shut_down` has returned here

    def _await_quiet(self, until: float) -> None:
        """Return when no new call has been refused for a while.

        A call that the front receives while it shuts down is CANCELLED, and clients do not repeat that. So
        new calls are refused with UNAVAILABLE before, until no more come.

        Args:
            until: when to return at the latest, by the monotonic clock.
        """
        began = 0.0
        while (now := time.monotonic()) < until and self._thread.is_alive():
            if refused := self._dispatcher.refused_at:
                began = began or now
                if now - refused > QUIET_SECONDS or now - began > REFUSE_SECONDS:
                    return
            time.sleep(QUIET_SECONDS / 20)

    # On the event loop's thread.

    @property
    def client(self) -> Client:
        """The client of the last call that arrived."""
        return self._dispatcher.client

    def _run(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):  # called here, while the thread is known to live
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        front, batcher, dispatcher = self._front, self._batcher, self._dispatcher
        timeout = front.timeout
        poll, clients, deferred = front.poll, self._clients, dispatcher.deferred
        admission = self.admission
        refusals, denials, arrived = admission.refusals, admission.denials, admission.arrived
        row, cell = self._heartbeat
        while not (self._is_shut and front.pending_ops == 0):
            row[cell] += 1.0
            if batcher.short_queries or self._soon or refusals or denials or arrived:
                event = poll(0.0)
            elif batcher.queries:
                event = self._poll_before_slice() if clients.have_rivals else poll(0.0)
            else:
                event = poll(time.time() + (DEFERRED_SECONDS if deferred else IDLE_SECONDS))
            if event.completion_type == timeout:
                self._nothing_arrived()
            else:
                self._empty = 0
                self._arrived(self._handle(event))
            event = None  # frees what the event holds before the next poll

    def _poll_before_slice(self) -> Any:
        """Poll for a moment, and note whether the thread has slept, and so all connections have been read.

        On a busy processor the time of the poll also passes while other processes run.
        """
        before = _sleeps()
        event = self._front.poll(time.time() + LONG_SECONDS)
        self._has_slept = _sleeps() > before
        return event

    def _nothing_arrived(self) -> None:
        """A poll has found no event: work on what waits."""
        self._empty += 1
        if self._batcher.queries and self._empty < EMPTY:
            return
        self._run_soon()
        if self._batcher.queries:
            self._work_once(is_busy=self._clients.have_rivals and not self._has_slept)
        elif not self.admission.begin_waiting():
            try:
                self.admission.refuse_waiting()
            except Exception:
                log.exception("a call could not be refused")

    def _arrived(self, now: float) -> None:
        """An event has been handled: answer a batch if it should not wait for further events.

        Args:
            now: in `time.perf_counter()` seconds.
        """
        batcher = self._batcher
        if self._dispatcher.lone_calls > ALONE and batcher.short_queries:
            self._work_once()
        elif batcher.short_queries >= batcher.most:  # a whole batch waits
            self._extra += 1
            if self._extra > READ_ON:
                self._work_once()
        elif self._dispatcher.deferred and self._soon:  # otherwise new calls would delay the outcomes
            self._run_soon()
        if batcher.queries and now > self._batch_ended + RIVAL_SECONDS and self._clients.have_rivals:
            self._work_once(is_busy=True)

    def _work_once(self, is_busy: bool = False) -> None:
        """Work between batches, answer a batch or a slice, and then refuse and begin some calls that wait."""
        self._extra = self._empty = 0
        self._has_slept = False
        self._run_soon()  # otherwise these functions would wait until the queue is empty
        try:
            self.admission.start_batch()
            self._batcher.answer(is_busy)
            self.admission.refusals.reject()
            self.admission.denials.reject()
            self.admission.begin_waiting()
        except Exception:
            log.exception("a batch could not be answered, or a call could not be refused")
        self._dispatcher.idle_since = time.perf_counter_ns()
        self._batch_ended = time.perf_counter()

    def _handle(self, event: Any) -> float:
        """Handle an event, and charge its time to its client.

        Returns:
            When that was done, in `time.perf_counter()` seconds; 0 while only one client calls.
        """
        tag = event.tag
        if tag is SHUTDOWN:
            self._is_shut = True
            return 0.0
        self._front.pending_ops -= 1
        # Not wall-clock time, because other processes must not make a client pay more.
        started = time.thread_time() if self._clients.have_rivals else None
        try:
            tag(event)
        except Exception:
            log.exception("an event could not be handled")
        if started is None:
            return 0.0
        owner = getattr(tag, "__self__", None)  # a call, or this loop, whose client is that of the last call
        if owner is not None:
            owner.client.used += time.thread_time() - started
        return time.perf_counter()

    def _run_soon(self) -> None:
        """Do the work between batches, and call the functions that were passed to `call_soon`."""
        more = False
        try:
            more = self._between is not None and self._between()
        except Exception:
            log.exception("work between batches has failed")
        while self._soon:
            try:
                self._soon.popleft()()
            except Exception:
                log.exception("a function of call_soon has failed")
        if more:
            self._soon.append(_nothing)  # so that the next poll does not wait

    def _call_arrived(self, event: Any) -> None:
        """Begin the call of an event, and ask the front for the next one."""
        call = self._front.call(event)
        if call is not None:
            self._front.await_call(self._call_arrived)
            self._dispatcher.dispatch(call)


def _nothing() -> None:
    """Keeps the loop from waiting for an event."""


def _sleeps() -> int:
    """How often this thread has slept; a number that grows anyway where the system has no count."""
    if not hasattr(resource, "RUSAGE_THREAD"):
        return time.perf_counter_ns()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
