"""Which calls and jobs are accepted, and how soon the others are refused.

A client that has less than its share of the queue is accepted, whatever others do (`serving/fair_queue.py`).
Its share is the room of the queue, divided by the number of clients with calls or queries that wait.
While several clients call, the calls of one that has used more time than the others wait until the event loop
has nothing else to do, or has answered a batch. That also holds the client back: its HTTP/2 streams stay
open, so it can send no more calls. The rest of this module is about clients that take more than their share,
and clients without rivals.

In an overload a long queue delays all clients and answers no more of them (Nichols and Jacobson, "Controlling
Queue Delay", 2012), so little more than a batch may wait; the sooner the overload is detected, the fewer
calls wait for long. But after a pause of the machine the queue is just as long, with the calls that would
have arrived meanwhile. This backlog is soon answered, because no more calls arrive than before, and none of
it is refused. Its size follows from the length of the silence, if only a pause can have kept calls away.

Reading a call and refusing it costs about a quarter of a search. Under many times the load that the service
can bear, refusing each call at once would leave no time for answers, and the refused clients would soon be
back. So refusals get a share of the time. Other refused calls wait for their refusal, which holds their
clients back: a connection has a limited number of open calls (HTTP/2, RFC 9113, section 5.1.2). When the
overload is over, the calls that have not waited for long are answered as far as there is room, and the others
are refused.
"""

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from twinspire.protos.errors import DeadlineExceeded, Overloaded
from twinspire.serving.engine.batching import Batcher, Job
from twinspire.serving.engine.call import UnaryCall
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.engine.stream_call import StreamCall
from twinspire.serving.engine.unsent import UnsentBytes
from twinspire.serving.fair_queue import Client, FairQueue

log = logging.getLogger(__name__)

# Detection of an overload.
ONSET_SECONDS = 0.03  # the queue must be too long for this time before calls are refused
GAP_SECONDS = 0.2  # longest time within it for which the queue may be shorter
LASTING_SECONDS = 0.1  # from the last refusal to the end of an overload, at least
CALM_BATCHES = 4  # to be answered after the last refusal, because time also passes while the machine pauses
CALM_SECONDS = 1.0  # after which an overload is over even with fewer batches
SILENCE_SECONDS = 0.03  # without a call, after which a backlog is assumed
LONGEST_SECONDS = 0.5  # longest silence from which a backlog is assumed
BACKLOG_SECONDS = 2.0  # least time that the worker gets to answer a backlog
DRAIN = 8  # a backlog takes at most this many times the silence, while other calls arrive
READ_SECONDS = 0.2  # time to read a backlog; a short queue does not end it earlier
RATE_SECONDS = 0.5  # over which calls are counted
SHORT = 64  # queries in a queue that delays no client

# Refusals.
SHARE = 0.04  # of the processor time for each of the two queues, at most
IDLE_SHARE = 1.0  # the same while no job is queued
COST = 50e-6  # seconds to read a call and refuse it
SAVED = 0.02  # seconds that a quiet service can save up for refusals
FRESH = 0.05  # seconds that a call may have waited for its refusal and still be answered
MAX_WAITING = 8192  # calls that may wait for their refusal

# Several clients.
AHEAD_SECONDS = 0.01  # of the event loop, which a client may use more than its rivals before its calls wait
BEGUN = 32  # calls that wait for that and are begun together, at most

# Idle clients.
MAX_LATE_CALLS = 16  # calls without a message, below which late ones are not looked for
MESSAGE_SECONDS = 0.5  # after which a call without its message takes no room in the queue
IDLE_STREAM_SECONDS = 5.0  # without a message, after which a stream is ended if another needs its room
IDLE_SPARE_STREAM_SECONDS = 0.2  # the same for a client with more streams than others


class OverloadDetector:
    """Detects an overload from calls, batches and refusals. For one thread.

    Args:
        long: queued queries from which on the queue is too long, unless there is a backlog.
        clock: in seconds.

    Attributes:
        until: end of the overload in seconds of the clock, if no more calls are refused.
    """

    def __init__(self, long: int = 512, clock: Callable[[], float] = time.monotonic) -> None:
        self.until = -math.inf
        self._long, self._clock = long, clock
        self._since = self._long_at = -math.inf  # since when, and when last, the queue was too long
        self._calm = 0  # batches since the last refusal
        self._called_at = self._counted_at = clock()
        self._waiting = self._calls = 0  # queries waiting at the last call; calls since `_counted_at`
        self._rate = 0.0  # calls per second
        self._backlog = 0.0  # calls
        # End of the last silence, and of the backlog that it left.
        self._silent_at = self._backlog_until = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether more calls arrive than the worker can answer."""
        if self.until < 0:  # there has been no overload
            return False
        over_for = self._clock() - self.until
        return over_for < 0 or (over_for < CALM_SECONDS and self._calm < CALM_BATCHES)

    def call_arrived(self, waiting: int) -> None:
        """A call has arrived while `waiting` queries were queued."""
        now = self._clock()
        self._estimate_backlog(now, waiting)
        self._waiting = waiting
        if waiting < self._long + self._backlog:
            return
        if now > self._long_at + GAP_SECONDS:
            self._since = now
        self._long_at = now
        if now >= self._since + ONSET_SECONDS:
            self.call_refused()

    def batch_answered(self) -> None:
        """A batch has been answered."""
        self._calm += 1

    def call_refused(self) -> None:
        """A call found no room: an overload begins, or goes on."""
        self.until, self._calm = self._clock() + LASTING_SECONDS, 0

    def _estimate_backlog(self, now: float, waiting: int) -> None:
        """Update the number of calls in the backlog."""
        if now > self._backlog_until or (now > self._silent_at + READ_SECONDS and waiting < SHORT):
            self._backlog = 0.0
        silence, self._called_at = now - self._called_at, now
        # If more queries were queued than expected, it is the queue that keeps clients from calling.
        if silence > SILENCE_SECONDS and self._waiting < SHORT + self._backlog:
            silence = min(silence, LONGEST_SECONDS)
            self._backlog += self._rate * silence
            self._silent_at = now
            drained = max(now, self._backlog_until) + DRAIN * silence
            self._backlog_until = max(now + BACKLOG_SECONDS, drained)
        self._calls += 1
        counted = now - self._counted_at
        if counted >= RATE_SECONDS:
            self._rate = self._calls / counted
            self._calls, self._counted_at = 0, now


class RefusalQueue:
    """The calls to be refused, and a token bucket that limits the time spent on them. For one thread.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: deque[tuple[float, Callable[[], None], Callable[[], None]]] = deque()
        self._saved = SAVED  # seconds in the bucket; below 0 after refusals for which there was no time
        self._since = clock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, refuse: Callable[[], None], accept: Callable[[], None]) -> None:
        """Refuse a call by calling `refuse`, now or later, or accept it after all.

        Args:
            refuse: ends the call with its error.
            accept: begins the call, or queues its job again.
        """
        self._refill()
        if (self._saved >= COST and not self._waiting) or len(self._waiting) >= MAX_WAITING:
            # Bounded, because otherwise a long flood of calls would delay refusals for long after its end.
            self._saved = max(-SAVED, self._saved - COST)
            refuse()
        else:
            self._waiting.append((self._since, refuse, accept))

    def reject(self, share: float = SHARE) -> None:
        """Refuse the calls that have waited longest, as many as there is time for.

        Args:
            share: of the time since the last refill that goes to refusals.
        """
        if not self._waiting:
            return
        self._refill(share)
        while self._waiting and self._saved >= COST:
            self._saved -= COST
            _, refuse, _ = self._waiting.popleft()
            refuse()

    def drain(self, room: int, keep_fresh: bool = False) -> None:
        """Accept up to `room` fresh calls, and refuse the others.

        Args:
            room: calls that may be accepted.
            keep_fresh: fresh calls beyond the room are not refused yet, because there may soon be more room.
        """
        self._refill()
        waiting, fresh_since = self._waiting, self._since - FRESH
        while waiting and room > 0 and waiting[-1][0] >= fresh_since:
            room -= 1
            _, _, accept = waiting.pop()
            accept()
        while waiting and not (keep_fresh and waiting[0][0] >= fresh_since):
            _, refuse, _ = waiting.popleft()
            refuse()

    def _refill(self, share: float = SHARE) -> None:
        now = self._clock()
        self._saved = min(SAVED, self._saved + (now - self._since) * share)
        self._since = now


class Admission:
    """Decides which calls, jobs and streams of a worker are accepted. For one thread.

    Args:
        bounds: of the worker.
        batcher: holds the queue of jobs.
        on_streams: called with the number of open streams whenever it changes.

    Attributes:
        refusals: calls and jobs without room.
        denials: calls without a valid token or an existing method. They have a queue of their own, because
            anyone can send them: they must neither delay refusals nor make an overload last.
        arrived: functions that begin accepted calls which wait for that.
    """

    def __init__(self, bounds: WorkerLimits, batcher: Batcher, on_streams: Callable[[int], None]) -> None:
        self.overload = OverloadDetector(bounds.queue)
        self.refusals, self.denials = RefusalQueue(), RefusalQueue()
        self.unsent = UnsentBytes(bounds.connection_unsent_bytes, bounds.unsent_bytes)
        batcher.batch_answered = self.overload.batch_answered
        self._batcher, self._on_streams = batcher, on_streams
        self._queue, self._max_streams = bounds.queue, bounds.streams
        self._room, self._overload_room = bounds.room, bounds.overload_queue
        self._fair_share = bounds.fair_share
        self._max_late_calls = min(MAX_LATE_CALLS, bounds.overload_queue)
        self._calls_of: dict[bytes, int] = {}  # connection -> calls since the last batch of an overload
        self._clients = batcher.clients
        self.arrived: FairQueue[Callable[[], None]] = FairQueue(self._clients)
        self._awaiting: dict[UnaryCall, None] = {}  # calls whose message has not arrived, oldest first
        self._late: dict[UnaryCall, None] = {}  # those that have waited for `MESSAGE_SECONDS`
        self._streams: dict[StreamCall, None] = {}  # in the order of their last messages

    def check_call(self, client: Client, connection: bytes) -> Overloaded | None:
        """Why to refuse a call that has arrived; None to accept it.

        A call takes room from its arrival, because otherwise many calls would be read only to be refused.
        """
        awaiting = self._awaiting
        if len(awaiting) >= self._max_late_calls:
            self._pass_over_late()
        batcher, overload = self._batcher, self.overload
        waiting = batcher.short_queries + len(awaiting) + len(self.arrived)
        overload.call_arrived(waiting)
        is_on = overload.is_on
        room = self._overload_room if is_on else self._room
        if self._clients.is_below_share(client, room):
            return None
        if waiting >= room:
            error = self._overloaded()
            self._shed(error)
            return error
        if not is_on or self._is_fair(connection):
            return None
        # Connections that are so few that the queue holds all their calls must not make an overload last.
        is_long = batcher.short_queries + len(self.refusals) >= self._queue
        return self._overloaded() if is_long else batcher.refusal()

    def check_job(self, job: Job, is_stream: bool) -> None:
        """Refuse a job for which the queue has no room.

        Raises:
            Overloaded: too many queries wait.
        """
        batcher, queries = self._batcher, len(job.prepared)
        waiting = batcher.short_queries
        if is_stream:
            self.overload.call_arrived(waiting)
        if batcher.is_long(job):  # long jobs have a queue of their own
            if not batcher.long.has_room(job, self._room):
                raise batcher.refusal(is_long=True)
            return
        room = self._overload_room if self.overload.is_on else self._room
        if (
            waiting
            and waiting + queries > room
            and not self._clients.is_below_share(job.client, room, queries)
        ):
            raise self._overloaded()

    def begin(self, client: Client, begin: Callable[[], None]) -> None:
        """Begin an accepted call, now or, if its client is ahead of others, by `begin_waiting`."""
        if self.arrived.line(client) or self._clients.is_ahead(client, AHEAD_SECONDS):
            self._clients.wait(client, 1)
            self.arrived.add(client, begin)
        else:
            begin()

    def begin_waiting(self) -> bool:
        """Begin some of the calls that wait to be begun; returns whether there were any."""
        arrived = self.arrived
        if not arrived:
            return False
        for _ in range(min(BEGUN, len(arrived))):
            client = arrived.first_client
            begin = arrived.take()
            self._clients.leave(client, 1)
            started = time.thread_time()
            try:
                begin()
            except Exception:  # must not keep the others waiting
                log.exception("a call could not be begun")
            self._clients.charge(client, time.thread_time() - started)
        return True

    def start_batch(self) -> None:
        """Allow each connection its share of calls again, because a batch begins."""
        self._calls_of.clear()

    def refuse_waiting(self) -> None:
        """Refuse or accept the calls that wait for their refusal; called while no job is queued.

        An accepted call whose message has not arrived takes room. A call that is still fresh can have that
        room when the accepted call has been answered.
        """
        self.denials.reject(IDLE_SHARE)
        if self.overload.is_on:
            self.refusals.reject(IDLE_SHARE)
        else:
            self._pass_over_late()
            awaiting = len(self._awaiting)
            self.refusals.drain(self._room - awaiting, keep_fresh=awaiting > 0)

    def await_message(self, call: UnaryCall) -> None:
        """The call waits for its message, and takes room in the queue until it arrives."""
        self._awaiting[call] = None
        self._clients.wait(call.client, 1)

    def message_arrived(self, call: UnaryCall) -> None:
        """The message of the call has arrived, or the call is over."""
        if self._awaiting.pop(call, call) is call:
            self._late.pop(call, None)
        else:
            self._clients.leave(call.client, 1)

    def enter_stream(self, call: StreamCall) -> bool:
        """Whether there is room for one more stream; if not, the call has failed."""
        if len(self._streams) >= self._max_streams and not self._end_idle_stream(call):
            call.fail(Overloaded(f"all {self._max_streams} streams are in use", 1.0))
            return False
        self._streams[call] = None
        self._on_streams(len(self._streams))
        return True

    def touch_stream(self, call: StreamCall) -> bool:
        """Move a stream to the end of the order of idleness; returns whether it is open."""
        is_open = self._streams.pop(call, True) is None
        if is_open:
            self._streams[call] = None
        return is_open

    def leave_stream(self, call: StreamCall) -> None:
        """A stream is over."""
        self._streams.pop(call, None)
        self._on_streams(len(self._streams))

    def _overloaded(self) -> Overloaded:
        """The error of a call without room; it makes an overload last."""
        if self.overload.is_on:
            self.overload.call_refused()
        return self._batcher.refusal()

    def _shed(self, error: Exception) -> None:
        """Refuse the jobs that have waited longest, if a burst has turned out to be an overload."""

        def drop(job: Job) -> None:
            job.error = error
            job.done(job)

        room = self._overload_room if self.overload.is_on else self._room
        for job in self._batcher.shed(room):
            self.refusals.add(partial(drop, job), partial(self._batcher.submit, job))

    def _is_fair(self, connection: bytes) -> bool:
        """Whether a connection may queue one more call before the next batch of an overload.

        An answer makes room for a call on the same connection. Without this bound the connections that have
        just been answered would fill the queue again, and the others would get no room.
        """
        count = self._calls_of[connection] = self._calls_of.get(connection, 0) + 1
        return count <= self._fair_share

    def _pass_over_late(self) -> None:
        """Stop counting calls whose message is late, and end the oldest of these if there are too many.

        Otherwise a client that opens calls and sends no messages would keep all others out.
        """
        late_since = time.perf_counter_ns() - MESSAGE_SECONDS * 1e9
        awaiting, late = self._awaiting, self._late
        while awaiting and (oldest := next(iter(awaiting))).arrived < late_since:
            del awaiting[oldest]
            self._clients.leave(oldest.client, 1)
            late[oldest] = None
        while len(late) > self._room:
            oldest = next(iter(late))
            del late[oldest]
            oldest.fail(DeadlineExceeded("the message of this call has not come, and others need its room"))

    def _end_idle_stream(self, newcomer: StreamCall) -> bool:
        """End the stream that has been idle longest, if it has been idle for long; returns whether one ended.

        If a client has more streams than the newcomer's client, they may be idle only for a short time, so it
        cannot hold all streams by opening them again.
        """
        streams_of = Counter(stream.caller for stream in self._streams)
        most = streams_of[newcomer.caller] + 1
        now = time.perf_counter_ns()
        for stream in self._streams:
            is_spare = streams_of[stream.caller] > most
            seconds = IDLE_SPARE_STREAM_SECONDS if is_spare else IDLE_STREAM_SECONDS
            if now - stream.active_at > seconds * 1e9 and not stream.is_working:
                stream.fail(Overloaded("this stream was idle, and another needed its room", 1.0))
                self.leave_stream(stream)
                return True
        return False
