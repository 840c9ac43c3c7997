"""Conversion between protobuf messages and the retriever's records, and the bounds of a request."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, InvalidInput
from twinspire.protos.features import SIDES
from twinspire.protos.figures import figures
from twinspire.serving.filters.plan import Plan
from twinspire.serving.flag_types import check_positive, option
from twinspire.serving.retrieval.answer import Answer, Basis, FusionMode, Hit, Scores, Timing
from twinspire.serving.retrieval.query import Query, QueryContext, Value, Vectors, check_item_ids

TEXT = wire.Query.DESCRIPTOR.fields_by_name["text"]
NO_BOUND = 2**32 - 1  # for a limit that an older server does not report
LONGEST_USER = 256  # bytes of the key of a user
ASK_LESS = "use a smaller k, or fewer queries in a request"


@dataclass(frozen=True)
class RequestLimits:
    """Bounds of one request.

    Raises:
        ValueError: a bound is below 1, `default_k` is above `max_k`, or `max_k` is above `max_hits`.
    """

    default_k: int = option(10, "items in an answer where k is 0")
    max_k: int = option(1000, "items in an answer")
    max_text_length: int = option(10_000, "code points in a string")
    max_batch: int = option(256, "queries, or items of Encode, in one request")
    max_exclude: int = option(1000, "items that one request excludes")
    max_values: int = option(1000, "strings in a history or a feature")
    max_in_flight: int = option(64, "requests of one stream on their way at once")
    max_message_bytes: int = option(4 << 20, "size of one request")
    max_hits: int = option(16_384, "items in one answer: queries times k")
    max_answer_bytes: int = option(4_000_000, "size of one answer; gRPC clients receive 4 MiB by default")
    max_filter_conditions: int = option(64, "conditions in one filter")
    max_filter_values: int = option(1000, "values in one filter")
    max_filter_depth: int = option(16, "filters inside each other")

    def __post_init__(self) -> None:
        check_positive(self)
        if self.max_hits < self.max_k:  # or max_k could never be used
            raise ValueError(f"max_hits: expected at least max_k = {self.max_k}, got {self.max_hits}")
        if self.default_k > self.max_k:
            raise ValueError(f"default_k: expected at most max_k = {self.max_k}, got {self.default_k}")

    def k(self, asked: int) -> int:
        """The k to answer with; 0 stands for the default.

        Raises:
            InvalidInput: it is above `max_k`.
        """
        if asked > self.max_k:
            raise InvalidInput("k", f"expected at most {self.max_k}, got {asked}")
        return asked or self.default_k

    def check_hits(self, queries: int, k: int) -> None:
        """Refuse a request for too many items.

        Args:
            queries: in the request.
            k: items for each query.

        Raises:
            InvalidInput: `queries * k` is above `max_hits`.
        """
        if queries * k > self.max_hits:
            raise InvalidInput(
                "k",
                f"expected at most {self.max_hits} items in one answer, got {queries} queries x {k} items"
                f" = {queries * k}; {ASK_LESS}",
            )

    def check_answer(self, size: int, advice: str, name: str = "k", about: str = "") -> int:
        """Refuse a request whose answer has too many bytes; returns them.

        Args:
            size: of the answer in bytes.
            advice: how to ask for less.
            name: of the field that asks for too much.
            about: stands before the size in the error.

        Raises:
            InvalidInput: the size is above `max_answer_bytes`.
        """
        if size > self.max_answer_bytes:
            most = f"expected an answer of at most {self.max_answer_bytes} bytes"
            raise InvalidInput(name, f"{most}, got {about}{size}; {advice}")
        return size

    def check_exclude(self, exclude: Sequence[str]) -> None:
        """Refuse too many excluded items, or an id that is too long.

        Raises:
            InvalidInput: there are more than `max_exclude`, or one is longer than `max_text_length`.
        """
        self._check_strings(exclude, "exclude", "items", self.max_exclude)

    def check_batch(self, count: int, name: str = "queries") -> int:
        """Refuse a batch without queries, or with too many; returns `count`.

        Args:
            name: of what is counted, `queries` or `items`.

        Raises:
            InvalidInput: `count` is 0 or above `max_batch`.
        """
        if not 1 <= count <= self.max_batch:
            raise InvalidInput(name, f"expected 1 to {self.max_batch} {name}, got {count}")
        return count

    def check_scored(self, queries: Sequence[wire.QueryItems]) -> int:
        """Refuse a request to score too many items, or none; returns their number.

        Raises:
            InvalidInput: a query or its items are missing, there are more than `max_hits` items in all, or an
                id is longer than `max_text_length`.
        """
        self.check_batch(len(queries))
        count = 0
        for n, each in enumerate(queries):
            if not each.HasField("query"):
                raise InvalidInput(f"queries[{n}].query", "required, but missing")
            if each.query.HasField("item_id"):
                text = "expected a text, a history or features: items are scored for queries, not for items"
                raise InvalidInput(f"queries[{n}].query.item_id", text)
            if not each.item_ids:
                raise InvalidInput(f"queries[{n}].item_ids", "expected at least one")
            self._check_lengths(each.item_ids, f"queries[{n}].item_ids", "items")
            count += len(each.item_ids)
        if count > self.max_hits:
            raise InvalidInput(
                "queries", f"expected at most {self.max_hits} items in all, got {count}; use several calls"
            )
        return count

    def check_query(self, query: Query, name: str) -> None:
        """Refuse a query that is too large.

        Args:
            name: of the query in errors, such as `queries[3]`.

        Raises:
            InvalidInput: a string, a string in a list, or a list is too long.
        """
        if query.text is not None:
            self._check_text(query.text, name, "text")
        if query.item_id is not None:
            self._check_text(query.item_id, name, "item_id")
        if query.user is not None:
            check_bytes(query.user, 1, LONGEST_USER, f"{name}.user")
        if query.history:
            self._check_strings(query.history, f"{name}.history", "items", self.max_values)
        if query.history_times:
            _check_count(len(query.history_times), self.max_values, f"{name}.history_times", "times")
        for feature, value in query.features.items():
            if isinstance(value, str):
                self._check_text(value, name, f"features.{feature}")
            elif not isinstance(value, int | float):
                self._check_strings(value, f"{name}.features.{feature}", "strings", self.max_values)

    def _check_text(self, text: str, name: str, part: str) -> None:
        if len(text) > self.max_text_length:  # the name is made only for the error, because each query passes
            _check_count(len(text), self.max_text_length, f"{name}.{part}", "code points")

    def _check_strings(self, strings: Sequence[str], field_name: str, unit: str, most: int) -> None:
        _check_count(len(strings), most, field_name, unit)
        self._check_lengths(strings, field_name, unit)

    def _check_lengths(self, strings: Sequence[str], field_name: str, unit: str) -> None:
        if (longest := max(map(len, strings), default=0)) > self.max_text_length:
            reason = (
                f"expected at most {self.max_text_length} code points in each of the {unit}, got {longest}"
            )
            raise InvalidInput(field_name, reason)


def check_bytes(text: str, least: int, most: int, field_name: str) -> None:
    """Refuse a text that no store takes, without showing it.

    Raises:
        InvalidInput: it has fewer bytes than `least`, more than `most`, or a NUL.
    """
    size = len(text.encode())
    if not least <= size <= most or "\0" in text:
        raise InvalidInput(field_name, f"expected {least} to {most} bytes without NUL, got {size}")


def query_from_wire(message: wire.Query, name: str) -> Query:
    """A query as the retriever takes it.

    Args:
        message: as received.
        name: of the query in errors, such as `queries[3]`.

    Raises:
        InvalidInput: a feature is named but holds no value.
    """
    given = message.ListFields()
    if len(given) == 1 and given[0][0] is TEXT:  # the usual query
        return Query(given[0][1])
    return Query(
        text=message.text if message.HasField("text") else None,
        history=tuple(message.history),
        features=_features_from_wire(message, name),
        item_id=message.item_id if message.HasField("item_id") else None,
        history_times=tuple(message.history_times),
        user=message.user if message.HasField("user") else None,
    )


def item_from_wire(message: wire.UnseenItem, name: str) -> Query:
    """An item as `item_encoder` takes it; `name` and errors as of `query_from_wire`."""
    return Query(features=_features_from_wire(message, name))


def _features_from_wire(message: wire.Query | wire.UnseenItem, name: str) -> dict[str, Value]:
    return {
        feature: value_from_wire(value, f"{name}.features.{feature}")
        for feature, value in message.features.items()
    }


@contextmanager
def refuse_surrogates(name: str) -> Iterator[None]:
    """Refuse text that is not Unicode, of which the block makes a message.

    Args:
        name: of the text in errors.

    Raises:
        InvalidInput: it holds one half of a surrogate pair.
    """
    try:
        yield
    except UnicodeEncodeError:
        raise InvalidInput(name, "expected Unicode, got a lone surrogate") from None


def item_to_wire(features: Mapping[str, Value], name: str) -> wire.UnseenItem:
    """An item as the service takes it; raises as `query_to_wire`."""
    with refuse_surrogates(name):
        message = wire.UnseenItem(features={key: value_to_wire(value) for key, value in features.items()})
    return message


def query_to_wire(query: Query, name: str = "query") -> wire.Query:
    """A query as the service takes it.

    Raises:
        InvalidInput: as `refuse_surrogates`, or as `value_to_wire`.
    """
    with refuse_surrogates(name):
        message = wire.Query(
            text=query.text,
            history=query.history,
            features={feature: value_to_wire(value) for feature, value in query.features.items()},
            item_id=query.item_id,
            history_times=query.history_times,
            user=query.user,
        )
    return message


def vectors_to_wire(vectors: Vectors, bundle_version: str, timing: Timing) -> wire.EncodeResponse:
    """The vectors (B, D) of queries or items."""
    return wire.EncodeResponse(
        vectors=[wire.Vector(values=vector) for vector in vectors.tolist()],
        bundle_version=bundle_version,
        timing=wire.Timing(**timing._asdict()),
    )


SCORE_KINDS = {
    "cosine": wire.SCORE_COSINE,
    "inner_product": wire.SCORE_INNER_PRODUCT,
    "sigmoid": wire.SCORE_PROBABILITY,
}


def scores_to_wire(
    manifest: Manifest,
    asked: Sequence[wire.QueryItems],
    scores: Sequence[Sequence[float | None]],
    contexts: Sequence[QueryContext],
    timing: Timing,
    sequence: int,
) -> wire.ScoreResponse:
    """The scores of items for queries; None where the catalogue holds no such item."""
    results = [
        wire.ItemScores(
            scores=[wire.ItemScore(id=i, score=s) for i, s in zip(each.item_ids, values, strict=True)],
            unknown_history=context.unknown_history,
            basis=f"BASIS_{context.basis.name}",
        )
        for each, values, context in zip(asked, scores, contexts, strict=True)
    ]
    return wire.ScoreResponse(
        results=results,
        kind=SCORE_KINDS[manifest.score.kind],
        bundle_version=manifest.bundle_version,
        timing=wire.Timing(**timing._asdict()),
        sequence=sequence,
    )


def scores_from_wire(message: wire.ScoreResponse) -> list[Scores]:
    """The scores for each query, as the client returns them."""
    kinds = {number: name.removeprefix("SCORE_").lower() for name, number in wire.ScoreKind.items()}
    return [
        Scores(
            tuple((each.id, each.score if each.HasField("score") else None) for each in result.scores),
            kinds.get(message.kind, "unknown"),
            message.bundle_version,
            _timing_from_wire(message.timing),
            result.unknown_history,
            BASES.get(result.basis, Basis.UNKNOWN),
            message.sequence,
        )
        for result in message.results
    ]


# A newer server may name others.
BASES: Mapping[int, Basis] = {
    number: Basis[name.removeprefix("BASIS_")] for name, number in wire.Basis.items()
}
FUSIONS: Mapping[int, FusionMode] = {
    number: FusionMode[name.removeprefix("FUSION_")] for name, number in wire.Fusion.items()
}
PLANS: Mapping[int, Plan] = {number: Plan[name.removeprefix("PLAN_")] for name, number in wire.Plan.items()}


def answer_from_wire(
    found: wire.SearchResponse | wire.HitList,
    bundle_version: str,
    timing: wire.Timing,
    sequence: int,
    request_id: str,
) -> Answer:
    """The answer to one query, as the client returns it."""
    return Answer(
        hits=tuple(map(_hit_from_wire, found.hits)),
        bundle_version=bundle_version,
        timing=_timing_from_wire(timing),
        unknown_history=found.unknown_history,
        basis=BASES.get(found.basis, Basis.UNKNOWN),
        sequence=sequence,
        plan=PLANS.get(found.plan, Plan.UNKNOWN),
        fusion=FUSIONS.get(found.fusion, FusionMode.DEFAULT),
        weak=found.weak,
        request_id=request_id,
        explored=found.explored,
        propensities=tuple(found.propensities),
    )


def _hit_from_wire(hit: wire.Hit) -> Hit:
    if hit.HasField("lexical"):
        prior = hit.prior if hit.HasField("prior") else None
        return Hit(hit.id, hit.score, dict(hit.fields), hit.dense, hit.lexical, prior)
    return Hit(hit.id, hit.score, dict(hit.fields))


def if_given(request: wire.SearchRequest | wire.SearchBatchRequest, name: str) -> Any:
    """The value of an optional field of a request; None if it has none."""
    return getattr(request, name) if request.HasField(name) else None


def fusion_from_wire(number: int) -> FusionMode:
    """The fusion that a request asks for.

    Raises:
        InvalidInput: there is no such fusion.
    """
    if number not in FUSIONS:
        raise InvalidInput("fusion", f"expected one of {', '.join(wire.Fusion.keys())}, got {number}")
    return FUSIONS[number]


def fusion_to_wire(fusion: FusionMode) -> Any:
    """A fusion as requests hold it."""
    return wire.Fusion.Value(f"FUSION_{fusion.name}")


def _timing_from_wire(timing: wire.Timing) -> Timing:
    return Timing(timing.queue_us, timing.encode_us, timing.search_us)


def info_to_wire(
    manifest: Manifest, items: int, limits: RequestLimits, uptime_seconds: float, state: Mapping[str, Any]
) -> wire.InfoResponse:
    """What the service serves: `items` is their number, `state` holds the fields of `ServiceState`."""
    return wire.InfoResponse(
        name=manifest.name,
        bundle_version=manifest.bundle_version,
        run_id=manifest.run_id,
        dimension=manifest.dimension,
        item_count=items,
        query_features={name: spec.kind for name, spec in manifest.schema.query.items()},
        display_fields=manifest.display_fields,
        limits=wire.Limits(**dataclasses.asdict(limits)),
        uptime_seconds=uptime_seconds,
        manifest_json=manifest.to_bytes().decode(),
        state=wire.ServiceState(**state),
        filter_fields=manifest.filters,
        figures=[wire.Figure(**each) for each in figures(manifest.quality)],
    )


@dataclass(frozen=True)
class Info:
    """What a server serves; `manifest` is the bundle's as JSON, `state` the fields of `ServiceState`."""

    name: str
    bundle_version: str
    run_id: str
    dimension: int
    item_count: int
    query_features: dict[str, str]
    display_fields: tuple[str, ...]
    limits: RequestLimits
    uptime_seconds: float
    manifest: dict[str, object]
    state: dict[str, Any]
    filter_fields: dict[str, str] = field(default_factory=dict)


def info_from_wire(message: wire.InfoResponse) -> Info:
    """What a server serves, as the client returns it.

    Raises:
        BundleDamaged: the answer's manifest is not JSON, or not that of a bundle.
    """
    limits = {
        field.name: getattr(message.limits, field.name) or NO_BOUND
        for field in dataclasses.fields(RequestLimits)
    }
    return Info(
        name=message.name,
        bundle_version=message.bundle_version,
        run_id=message.run_id,
        dimension=message.dimension,
        item_count=message.item_count,
        query_features=dict(message.query_features),
        display_fields=tuple(message.display_fields),
        limits=RequestLimits(**limits),
        uptime_seconds=message.uptime_seconds,
        manifest=_manifest(message.manifest_json),
        state=_fields(message.state),
        filter_fields=dict(message.filter_fields),
    )


def _manifest(text: str) -> dict[str, object]:
    try:
        manifest: Any = parse_json(text)
    except ValueError as error:
        raise BundleDamaged(f"manifest_json: not JSON: {error}") from None
    try:
        kinds = [spec["kind"] for side in SIDES for spec in manifest["schema"][side].values()]
    except (KeyError, TypeError, AttributeError, IndexError):
        kinds = []
    if not kinds:
        raise BundleDamaged(
            "manifest_json: expected a bundle's manifest, got one without the towers' features"
        )
    return dict(manifest)


def _fields(message: Message) -> dict[str, Any]:
    """All fields of a message, also those with their default; optional ones None, and messages empty."""
    return {field.name: _plain(message, field.name) for field in message.DESCRIPTOR.fields}


def _plain(message: Message, name: str) -> Any:
    value = getattr(message, name)
    if message.DESCRIPTOR.fields_by_name[name].has_presence and not message.HasField(name):
        return {} if isinstance(value, Message) else None
    if isinstance(value, Message):
        return _fields(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str | bytes | int | float):
        return value
    return [_fields(each) for each in value]


def value_from_wire(message: wire.FeatureValue, field_name: str) -> Value:
    """The value of a feature.

    Raises:
        InvalidInput: there is none.
    """
    kind = message.WhichOneof("value")
    if kind == "text":
        return message.text
    if kind == "number":
        return message.number
    if kind == "strings":
        return tuple(message.strings.values)
    raise InvalidInput(field_name, "expected a text, a number or strings, got none of them")


def value_to_wire(value: Value) -> wire.FeatureValue:
    """The value of a feature, as a message.

    Raises:
        InvalidInput: it is a whole number that no double can hold, or a list of other values than strings.
    """
    if isinstance(value, str):
        return wire.FeatureValue(text=value)
    if isinstance(value, int | float):
        try:
            return wire.FeatureValue(number=value)
        except OverflowError:
            raise InvalidInput("features", "expected a number that a double can hold") from None
    check_item_ids(value, "features", "strings")
    return wire.FeatureValue(strings=wire.StringList(values=value))


def _check_count(count: int, most: int, field_name: str, unit: str) -> None:
    if count > most:
        raise InvalidInput(field_name, f"expected at most {most} {unit}, got {count}")
