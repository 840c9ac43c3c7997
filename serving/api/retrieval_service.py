"""The service `retrieval.v1.Retrieval`: reads requests, checks their bounds, and makes jobs of them."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput, TwinspireError
from twinspire.serving.engine.batching import BATCH_COST, Job
from twinspire.serving.engine.call import Call, Deferred
from twinspire.serving.engine.remote_calls import RemoteCalls
from twinspire.serving.engine.sequence_waits import AHEAD, SequenceWaits
from twinspire.serving.events.shown_items import ShownItems
from twinspire.serving.filters.columns import Work
from twinspire.serving.rate_limit import RateLimit, tokens
from twinspire.serving.retrieval.answer import Timing
from twinspire.serving.retrieval.event_reading import ResolvedQuery, ResolveUsers
from twinspire.serving.retrieval.query import (
    NO_SEARCH,
    EncodedQueries,
    PreparedQuery,
    Query,
    SearchOptions,
    SearchResult,
)
from twinspire.serving.retrieval.response_bytes import ENVELOPE_BYTES, ENVELOPE_BYTES_EACH, ResponseWriter
from twinspire.serving.rollout.interleaving import Interleaver, MakeJob, attempt, failed, no_answer
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.security.auth import caller
from twinspire.serving.served_log.sampling import AnswerOf, AnswerSampler, MakeAnswer
from twinspire.serving.shadow.mirror import TrafficMirror
from twinspire.serving.wire import converters
from twinspire.serving.wire.converters import ASK_LESS, RequestLimits
from twinspire.serving.wire.filter_converters import compile_filter, search_options

SERVICE = wire.DESCRIPTOR.services_by_name["Retrieval"]
SearchMessage = wire.SearchRequest | wire.SearchBatchRequest
KEY = "x-request-key"  # metadata: the same bundle answers all requests with the same key
SCORED_BYTES = 20  # most bytes of an item's score besides its id


class RetrievalServicer:
    """Turns requests into jobs; searches give their answers as bytes.

    Args:
        split: the bundles that answer; may be replaced on the event loop's thread.
        rate: limit of each client, if there is one.
        state: gives the fields of `ServiceState` for `Info`.
        mirror: takes a share of the champion's searches, if there is one.
        store_sequence: gives the last known sequence of the store of live items; by default that of the
            champion's items.
        resolve_users: adds the events of users to queries, if the service has them.
        log: takes a share of the answers, if the service keeps a log of them.
        shown: keeps which items were shown to users, if the service does.
        interleave_share: of the searches, 0 to 1, get hits of champion and canary, if there is one.

    Attributes:
        waits: calls that wait until the bundles have applied a write; `advance` answers them.
    """

    def __init__(
        self,
        split: TrafficSplit,
        limits: RequestLimits,
        rate: RateLimit | None,
        state: Callable[[], dict[str, Any]],
        mirror: TrafficMirror | None = None,
        store_sequence: Callable[[], int] | None = None,
        resolve_users: ResolveUsers | None = None,
        log: AnswerSampler | None = None,
        shown: ShownItems | None = None,
        interleave_share: float = 0.0,
    ) -> None:
        self.split, self._resolve_users = split, resolve_users
        self._log, self._shown = log, shown
        self._interleaver = Interleaver(interleave_share, limits.max_answer_bytes - ENVELOPE_BYTES)
        self.waits = SequenceWaits()
        self._limits = limits
        self._rate = rate
        self._explores = log is not None and log.explores
        self._state = state
        self._store_sequence = store_sequence or (lambda: self.split.sequence)
        self._mirror = mirror
        self._started = time.monotonic()
        self._remote = RemoteCalls()

    def stop(self) -> None:
        """End the threads that wait for another server."""
        self._remote.stop()

    def Search(self, request: wire.SearchRequest, call: Call, answer_id: str = "") -> Job | Deferred:
        """The k items nearest to one query; `answer_id` if the rate limit was charged before a wait."""
        if not request.HasField("query"):
            raise InvalidInput("query", "required, but missing")
        challenger = self._interleaver.challenger(self.split)
        spec = self._spec(call, (request.query,), ("query",), challenger is not None)
        bundle, admitted = spec.bundle, bool(answer_id)
        answer_id = answer_id or (f"{call.request_id}/{call.queries}" if call.is_stream else call.request_id)

        def answer(job: Job) -> bytes:
            hits = None if challenger is None else self._interleaver.hits(job, bundle, challenger)
            rest = bundle.version, job.timing, job.sequence, answer_id, hits
            return bundle.responses.response(job.found[0], *rest)

        again = partial(self.Search, request, call, answer_id)
        return self._search(request, spec, answer, lambda job, whole, n: whole, again, admitted, challenger)

    SearchStream = Search  # one answer for each request, in order

    def SearchBatch(
        self, request: wire.SearchBatchRequest, call: Call, admitted: bool = False
    ) -> Job | Deferred:
        """Many queries in one call; `admitted` if the rate limit was charged before a wait."""
        count = self._limits.check_batch(len(request.queries))
        self._limits.check_hits(count, self._limits.k(request.k))  # before any query is read
        spec = self._spec(call, request.queries, _names(count))
        bundle = spec.bundle

        def answer(job: Job) -> bytes:
            rest = bundle.version, job.timing, job.sequence, call.request_id
            return bundle.responses.batch_response(job.found, *rest)

        def answer_of(job: Job, whole: bytes, place: int) -> bytes:
            rest = bundle.version, job.timing, job.sequence, f"{call.request_id}/{place}"
            return bundle.responses.response(job.found[place], *rest)

        again = partial(self.SearchBatch, request, call, True)
        return self._search(request, spec, answer, answer_of, again, admitted)

    def Encode(self, request: wire.EncodeRequest, call: Call) -> wire.EncodeResponse | Job | Deferred:
        """The vectors of queries, or of items."""
        if request.items:
            return self._encode_items(request, call)
        count = self._limits.check_batch(len(request.queries))
        spec = self._spec(call, request.queries, _names(count))
        bundle = spec.bundle
        size = self._vector_bytes(bundle.manifest.width("query"), count, "queries")

        def answer(job: Job) -> wire.EncodeResponse:
            return converters.vectors_to_wire(job.vectors, bundle.version, job.timing)

        self.admit(call, count)
        return self._job(spec, answer, size)

    def Score(self, request: wire.ScoreRequest, call: Call, admitted: bool = False) -> Job | Deferred:
        """The towers' scores of given items for given queries; `admitted` as in `SearchBatch`."""
        given = request.queries
        items, count = self._limits.check_scored(given), len(given)
        names = [f"{name}.query" for name in _names(count)]
        spec = self._spec(call, [each.query for each in given], names)
        bundle = spec.bundle
        size = self._limits.check_answer(_score_bytes(given), "use several calls", "queries")
        if not admitted:
            self.admit(call, count, items)
        if request.min_sequence > bundle.sequence:
            return self._wait(request, spec, partial(self.Score, request, call, True))

        def scores(job: Job) -> list[list[float | None]]:
            # The items are looked up here, so that no change of live items comes between two of them.
            return [
                bundle.retriever.scores(vector, each.item_ids, found.context.basis)
                for vector, each, found in zip(job.vectors, given, job.found, strict=True)
            ]

        def response(job: Job, scores: list[list[float | None]]) -> wire.ScoreResponse:
            manifest, sequence = bundle.manifest, bundle.retriever.sequence
            contexts = [each.context for each in job.found]
            return converters.scores_to_wire(manifest, given, scores, contexts, job.timing, sequence)

        def answer(job: Job) -> wire.ScoreResponse | Deferred:
            if bundle.manifest.is_remote:
                return self._remote.run(call, count, partial(scores, job), partial(response, job))
            return response(job, scores(job))

        spec.scored_items = items
        return self._job(spec, answer, size)

    def Info(self, request: wire.InfoRequest, call: Call) -> wire.InfoResponse:
        """Manifest of the champion, limits, and state of the service."""
        uptime_seconds = time.monotonic() - self._started
        manifest, items = self.split.champion.manifest, self.split.champion.retriever.item_count
        return converters.info_to_wire(manifest, items, self._limits, uptime_seconds, self._state())

    def _encode_items(self, request: wire.EncodeRequest, call: Call) -> wire.EncodeResponse:
        """The vectors of items, computed at once.

        Raises:
            InvalidInput: the item tower is not offered, the items do not fit it, or the answer would be too
                large.
            RateLimited: the client sends too many requests.
            ClientGone: the client waits no longer.
        """
        if request.queries:
            raise InvalidInput("items", "expected either queries or items, got both")
        count = self._limits.check_batch(len(request.items), "items")
        items = []
        for n, message in enumerate(request.items):
            item = converters.item_from_wire(message, f"items[{n}]")
            self._limits.check_query(item, f"items[{n}]")
            items.append(item)
        bundle = self._choose(call, request.items[0])
        if bundle.item_tower is None:
            raise InvalidInput("items", "this service does not offer the item tower (--item-tower)")
        call.reserve(self._vector_bytes(bundle.manifest.width("item"), count, "items"))
        self.admit(call, count)
        call.check("encode")
        started = time.perf_counter_ns()
        vectors = bundle.item_tower(items)
        timing = Timing(encode_us=(time.perf_counter_ns() - started) // 1000)
        return converters.vectors_to_wire(vectors, bundle.version, timing)

    def _wait(
        self, request: SearchMessage | wire.ScoreRequest, spec: "_JobSpec", again: Callable[[], Any]
    ) -> Deferred:
        """A search that is made by `again` when the bundles have applied the changes up to a sequence.

        Raises:
            InvalidInput: the service takes no writes, or the store cannot have given so high a sequence.
            Overloaded: too many calls wait.
        """
        bundle, sequence = spec.bundle, request.min_sequence
        if bundle.live is None:
            raise InvalidInput("min_sequence", "this service takes no writes, so there is none to wait for")
        if sequence > bundle.sequence + AHEAD and sequence > (known := self._store_sequence()) + AHEAD:
            raise InvalidInput(
                "min_sequence",
                f"expected a sequence that the store has given, of which the last known is {known}, "
                f"got {sequence}; it may be of another store",
            )
        return self.waits.add(sequence, spec.call, again, request.ByteSize())

    def _with_rival(
        self,
        spec: "_JobSpec",
        challenger: LoadedBundle,
        request: SearchMessage,
        job: Callable[..., Job | Deferred],
    ) -> Job | Deferred:
        """The champion's job with the challenger's.

        The challenger's errors, except those of reading the user's events, do not reach the client.

        Args:
            job: makes the champion's with `rival`.
        """
        try:
            options = search_options(request, challenger.retriever, self._limits)
        except TwinspireError as error:
            return job(rival=failed(challenger, error))

        def paired(make: MakeJob) -> Job | Deferred:
            return job(rival=attempt(challenger, make))

        return self._job(replace(spec, bundle=challenger, options=options), no_answer, 0, then=paired)

    def _spec(
        self, call: Call, messages: Sequence[wire.Query], names: Sequence[str], is_interleaved: bool = False
    ) -> "_JobSpec":
        """The queries of a call as the retriever takes them, and the bundle that answers.

        Raises:
            InvalidInput: a query is too large, or a feature has no value.
        """
        bundle = self._choose(call, messages[0], is_interleaved)
        return _JobSpec(call, bundle, messages, [*map(self._query, messages, names)], names)

    def _choose(
        self, call: Call, query: wire.Query | wire.UnseenItem, is_interleaved: bool = False
    ) -> LoadedBundle:
        """The bundle that answers: chosen by the hash of the client's key, or of the query without a key."""
        split = self.split
        if split.canary is None or is_interleaved:
            bundle = split.champion
        else:
            key = next((value for name, value in call.metadata if name == KEY), None)
            if key is None:
                key = query.SerializeToString(deterministic=True)
            bundle = split.choose(key if isinstance(key, bytes) else key.encode())
        call.bundle = bundle
        return bundle

    def _search(
        self,
        request: SearchMessage,
        spec: "_JobSpec",
        answer: MakeAnswer,
        answer_of: AnswerOf,
        again: Callable[[], Any],
        admitted: bool,
        challenger: LoadedBundle | None = None,
    ) -> Job | Deferred:
        """The job of a search, whose answer also goes to the shadow, the served log and the items shown.

        Args:
            again: calls the method again, after a wait for `min_sequence`.
            admitted: whether the rate limit was charged before such a wait.
            challenger: of an interleaved search. Such an answer is not explored, and no shadow gets it.
        """
        bundle, messages, count = spec.bundle, spec.messages, len(spec.queries)
        if request.exclude:
            self._limits.check_exclude(request.exclude)
        options = search_options(request, bundle.retriever, self._limits, with_filter=False)
        size = bundle.responses.expected(count, options.k, self._explores)
        if count > 1:  # the answer to one query may fit, whatever is expected
            self._limits.check_answer(size, ASK_LESS, about="about ")
        if not admitted:
            self.admit(spec.call, count, _items(spec.queries, options), bundle.retriever.interests)
        if request.min_sequence > (bundle.sequence if challenger is None else self.split.sequence):
            return self._wait(request, spec, again)
        options = self._filtered(request, spec, options)
        make = answer
        if bundle.responses.most(count, options.k, self._explores) > self._limits.max_answer_bytes:
            make = self._checked(answer, bundle.responses)
        self._check_shown(request.exclude_shown, spec)
        sampled = None if self._log is None else self._log.sample(count, explores=challenger is None)
        is_explored = sampled is not None and bool(sampled.explored)
        is_alone = bundle is self.split.champion and not is_explored and challenger is None
        if self._mirror is not None and is_alone and isinstance(request, wire.SearchRequest):
            make = self._mirror.sending(request, make) if self._mirror.samples() else make
        if sampled is not None:
            make = sampled.logged(make, answer_of, messages, options.k, request)
            if is_explored:  # its order is drawn among the best `top` items
                options = options._replace(k=max(options.k, sampled.sampler.explorer.top))
        if self._shown is not None and any(each.HasField("user") for each in messages):
            make = self._shown.adding(messages, make)
        spec.options, spec.exclude_shown = options, request.exclude_shown
        if challenger is None:
            return self._job(spec, make, size)
        return self._with_rival(spec, challenger, request, partial(self._job, spec, make, size))

    def _checked(self, answer: MakeAnswer, responses: ResponseWriter) -> MakeAnswer:
        """`answer` with a check of its size, at first of its hits, before the bytes take memory."""

        def check(job: Job) -> bytes:
            self._limits.check_answer(sum(map(responses.size, job.found)), ASK_LESS)
            message = answer(job)
            self._limits.check_answer(len(message), ASK_LESS)
            return message

        return check

    def _vector_bytes(self, dimension: int, count: int, name: str) -> int:
        """The bytes of an answer of `count` vectors of float32, unless they are too many."""
        size = count * (ENVELOPE_BYTES_EACH + 4 * dimension)
        return self._limits.check_answer(size, f"use fewer {name}", name)

    def _check_shown(self, seconds: int, spec: "_JobSpec") -> None:
        """Refuse to exclude items shown if the service does not keep them, or keeps them for less long.

        Raises:
            InvalidInput: it does not; or a query has no user.
        """
        if not seconds:
            return
        most = 0 if self._shown is None else self._shown.seconds
        if seconds > most:
            kept = f"at most {most}, as long as items shown are kept (serve --events --events-shown-hours)"
            raise InvalidInput("exclude_shown", f"expected {kept}, got {seconds}")
        for message, name in zip(spec.messages, spec.names, strict=True):
            if not message.HasField("user"):
                raise InvalidInput(f"{name}.user", "required with exclude_shown, but missing")

    def _job(
        self,
        spec: "_JobSpec",
        answer: Callable[[Job], Any],
        size: int,
        rival: Job | None = None,
        then: Callable[[MakeJob], Job | Deferred] | None = None,
    ) -> Job | Deferred:
        """The job of these queries, deferred where users' events or another server have to be read first.

        Args:
            size: bytes that `answer` is expected to make.
            rival: the challenger's job, which is left out where both are too much for one batch.
            then: of a challenger's job, takes what makes it; its outcome is returned in place of the job.
        """
        bundle, options = spec.bundle, spec.options
        retriever = bundle.retriever

        def made(queries: Sequence[Query], excluded: Iterable[Collection[str]], more: int = 0) -> Any:
            if bundle.manifest.is_remote:
                return self._remote_job(replace(spec, queries=queries), excluded, answer, size)
            prepared = [*map(retriever.prepare, queries, spec.names, excluded)]
            job = Job(retriever, prepared, options, answer, size)
            job.cost += spec.scored_items + more * retriever.interests
            if options.exclude_history:
                job.cost += _histories(queries) * retriever.interests
            if options.filter is not None or retriever.interests > 1:
                job.cost += len(queries) * retriever.expected_cost(options)
            return job

        def resolved(found: Sequence[ResolvedQuery]) -> Job | Deferred:
            more = sum(len(each.excluded) for each in found)
            if self._rate is not None and more and then is None:
                count = len(found)
                self._rate.charge(caller(spec.call), tokens(count, more) - tokens(count, 0))
            return finished(
                lambda: made([each.query for each in found], [each.excluded for each in found], more)
            )

        def finished(make: MakeJob) -> Job | Deferred:
            if then is not None:
                return then(make)
            job = make()
            if rival is not None and job.cost + rival.cost <= BATCH_COST:
                job.add_rival(rival)
            return job

        if self._resolve_users is None or all(each.user is None for each in spec.queries):
            return finished(partial(made, spec.queries, repeat(())))
        job: Job | Deferred
        excludes = options.exclude_history, spec.exclude_shown
        job = self._resolve_users(spec.queries, retriever.events, *excludes, resolved)
        return job

    def _remote_job(
        self, spec: "_JobSpec", excluded: Iterable[Collection[str]], answer: Callable[[Job], Any], size: int
    ) -> Job | Deferred:
        """As `_job`, where another server has the items: threads look up items as queries, and search."""
        call, queries, options, count = spec.call, spec.queries, spec.options, len(spec.queries)
        retriever = spec.bundle.retriever

        def search(job: Job) -> Deferred:
            began = time.perf_counter_ns()
            contexts = tuple([each.context for each in job.found])
            encoded = EncodedQueries(job.vectors, contexts, job.encode_us)

            def answered(found: list[SearchResult]) -> Any:
                job.options, job.found = options, found
                job.search_started, job.search_us = began, (time.perf_counter_ns() - began) // 1000
                return answer(job)

            return self._remote.run(call, count, lambda: retriever.find(encoded, [options] * count), answered)

        def encode(prepared: Sequence[PreparedQuery]) -> Job:
            return Job(retriever, prepared, NO_SEARCH, search if options.k else answer, size)

        prepare = partial(retriever.prepare_all, queries, spec.names, excluded)
        if all(query.item_id is None for query in queries):
            return encode(prepare())
        return self._remote.run(call, count, prepare, encode)

    def admit(self, call: Call, queries: int, items: int = 0, interests: int = 1) -> None:
        """Charge the client's rate limit for queries, and for the items that their searches look for.

        Args:
            interests: vectors of a query; each of them counts as a search of its own.

        Raises:
            RateLimited: the client sends too many requests.
        """
        call.queries += queries
        if self._rate is not None:
            self._rate.admit(caller(call), tokens(interests * queries, interests * items))

    def _filtered(self, request: SearchMessage, spec: "_JobSpec", options: SearchOptions) -> SearchOptions:
        """The options with the request's filter; it is evaluated after all other checks, which cost less.

        Its cost, in items, is known only after the evaluation, and is charged then.
        """
        if not request.HasField("filter"):
            return options
        queries, retriever, work = spec.queries, spec.bundle.retriever, Work()
        try:
            compiled = compile_filter(request.filter, retriever.filters, self._limits, work)
            options = options._replace(filter=compiled)
            work.steps += len(queries) * retriever.extra_cost(options)
        finally:
            items = _items(queries, options)
            more = tokens(len(queries), items + work.steps) - tokens(len(queries), items)
            if self._rate is not None and more:
                self._rate.charge(caller(spec.call), more)
        return options

    def _query(self, message: wire.Query, name: str) -> Query:
        query = converters.query_from_wire(message, name)
        self._limits.check_query(query, name)
        return query


@dataclass(slots=True)
class _JobSpec:
    """The queries of a call, and what one bundle does with them.

    Args:
        messages: the queries as received.
        names: of the queries in errors.
        options: of a search.
        scored_items: how many items the answer scores.
        exclude_shown: seconds for which items shown to the user are excluded.
    """

    call: Call
    bundle: LoadedBundle
    messages: Sequence[wire.Query]
    queries: Sequence[Query]
    names: Sequence[str]
    options: SearchOptions = NO_SEARCH
    scored_items: int = 0
    exclude_shown: int = 0


def _score_bytes(asked: Sequence[wire.QueryItems]) -> int:
    """The bytes of an answer with the scores of these items, at most."""
    ids = [item_id for each in asked for item_id in each.item_ids]
    size = ENVELOPE_BYTES + len(asked) * ENVELOPE_BYTES_EACH + SCORED_BYTES * len(ids)
    return size + sum(len(item_id.encode()) for item_id in ids)


def _names(count: int) -> list[str]:
    """The names of the queries of a batch in errors."""
    return [f"queries[{n}]" for n in range(count)]


def _items(queries: Sequence[Query], options: SearchOptions) -> int:
    """Items that the searches of a request look for or leave out."""
    histories = _histories(queries) if options.exclude_history else 0
    return len(queries) * (options.k + len(options.exclude)) + histories


def _histories(queries: Sequence[Query]) -> int:
    """The most items that the histories of queries have: `history`, and all features of several strings."""
    values = [value for each in queries for value in (each.history, *each.features.values())]
    return sum(len(value) for value in values if isinstance(value, tuple))
