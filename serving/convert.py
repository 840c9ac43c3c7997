"""Between the wire's messages and the retriever's records, in both directions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from protos import retrieval_pb2 as wire
from protos.bundle import Manifest
from protos.documents import parse_json
from protos.errors import BundleDamaged, InvalidInput
from serving.answer import Answer, Hit, Timing
from serving.basis import Basis
from serving.limits import Limits
from serving.query import Query, Value

TEXT = wire.Query.DESCRIPTOR.fields_by_name["text"]
NO_BOUND = 2**32 - 1  # of a server that is older than a limit
BASES: dict[Basis, Any] = {basis: wire.Basis.Value(f"BASIS_{basis.name}") for basis in Basis}


def query_from_wire(message: wire.Query, name: str) -> Query:
    """A query as the retriever takes it.

    Args:
        message: as it was received.
        name: what an error calls it, such as `queries[3]`.

    Raises:
        InvalidInput: a feature is named but holds no value.
    """
    given = message.ListFields()
    if len(given) == 1 and given[0][0] is TEXT:  # as most are
        return Query(given[0][1])
    return Query(
        text=message.text if message.HasField("text") else None,
        history=tuple(message.history),
        features={
            feature: _value_from_wire(value, f"{name}.features.{feature}")
            for feature, value in message.features.items()
        },
        item_id=message.item_id if message.HasField("item_id") else None,
    )


def query_to_wire(query: Query, name: str = "query") -> wire.Query:
    """A query as the service takes it.

    Raises:
        InvalidInput: a string in it is not Unicode: it holds one half of a surrogate pair.
    """
    try:
        return wire.Query(
            text=query.text,
            history=query.history,
            features={feature: _value_to_wire(value) for feature, value in query.features.items()},
            item_id=query.item_id,
        )
    except UnicodeEncodeError:
        raise InvalidInput(name, "expected Unicode, got a lone surrogate") from None


def hits_to_wire(hits: Sequence[Hit]) -> list[wire.Hit]:
    """Hits as the wire carries them."""
    return [wire.Hit(id=hit.id, score=hit.score, fields=hit.fields) for hit in hits]


def basis_to_wire(basis: Basis) -> Any:
    """What an answer rests on, as the wire carries it: a value of the enum `wire.Basis`."""
    return BASES[basis]


def timing_to_wire(timing: Timing) -> wire.Timing:
    """Times as the wire carries them."""
    return wire.Timing(queue_us=timing.queue_us, encode_us=timing.encode_us, search_us=timing.search_us)


def answer_to_wire(answer: Answer) -> wire.SearchResponse:
    """The answer to one query."""
    return wire.SearchResponse(
        hits=hits_to_wire(answer.hits),
        bundle_version=answer.bundle_version,
        timing=timing_to_wire(answer.timing),
        unknown_history=answer.unknown_history,
        basis=basis_to_wire(answer.basis),
    )


def answers_to_wire(answers: Sequence[Answer]) -> wire.SearchBatchResponse:
    """The answers to a batch; version and timing are those of the first, as of them all."""
    return wire.SearchBatchResponse(
        results=[
            wire.HitList(
                hits=hits_to_wire(each.hits),
                unknown_history=each.unknown_history,
                basis=basis_to_wire(each.basis),
            )
            for each in answers
        ],
        bundle_version=answers[0].bundle_version,
        timing=timing_to_wire(answers[0].timing),
    )


def answer_from_wire(
    found: wire.SearchResponse | wire.HitList, bundle_version: str, timing: wire.Timing
) -> Answer:
    """The answer to one query, as the client gives it."""
    return Answer(
        hits=tuple(Hit(hit.id, hit.score, dict(hit.fields)) for hit in found.hits),
        bundle_version=bundle_version,
        timing=timing_from_wire(timing),
        unknown_history=found.unknown_history,
        basis=Basis[wire.Basis.Name(found.basis).removeprefix("BASIS_")],
    )


def timing_from_wire(timing: wire.Timing) -> Timing:
    """Times, as the client gives them."""
    return Timing(timing.queue_us, timing.encode_us, timing.search_us)


def info_to_wire(
    manifest: Manifest, limits: Limits, uptime_seconds: float, state: Mapping[str, Any]
) -> wire.InfoResponse:
    """What is being served; `state` holds the fields of `ServiceState`."""
    return wire.InfoResponse(
        name=manifest.name,
        bundle_version=manifest.bundle_version,
        run_id=manifest.run_id,
        dimension=manifest.dimension,
        item_count=manifest.count,
        query_features={name: spec.kind for name, spec in manifest.schema.query.items()},
        display_fields=manifest.display_fields,
        limits=wire.Limits(**dataclasses.asdict(limits)),
        uptime_seconds=uptime_seconds,
        manifest_json=manifest.to_bytes().decode(),
        state=wire.ServiceState(**state),
    )


@dataclasses.dataclass(frozen=True)
class Info:
    """What a server serves; `manifest` is the bundle's, as JSON gives it, `state` the service's own."""

    name: str
    bundle_version: str
    run_id: str
    dimension: int
    item_count: int
    query_features: dict[str, str]
    display_fields: tuple[str, ...]
    limits: Limits
    uptime_seconds: float
    manifest: dict[str, object]
    state: dict[str, Any]


def info_from_wire(message: wire.InfoResponse) -> Info:
    """What is being served, as the client gives it.

    Raises:
        BundleDamaged: the answer's manifest is not JSON.
    """
    limits = {
        field.name: getattr(message.limits, field.name) or NO_BOUND for field in dataclasses.fields(Limits)
    }
    return Info(
        name=message.name,
        bundle_version=message.bundle_version,
        run_id=message.run_id,
        dimension=message.dimension,
        item_count=message.item_count,
        query_features=dict(message.query_features),
        display_fields=tuple(message.display_fields),
        limits=Limits(**limits),
        uptime_seconds=message.uptime_seconds,
        manifest=_manifest(message.manifest_json),
        state=_fields(message.state),
    )


def _manifest(text: str) -> dict[str, object]:
    try:
        manifest: dict[str, object] = parse_json(text)
    except ValueError as error:
        raise BundleDamaged(f"manifest_json: not JSON: {error}") from None
    return manifest


def _fields(message: Message) -> dict[str, Any]:
    """The fields of a message, those too that hold their default; a message that is not there has none."""
    return {field.name: _plain(message, field.name) for field in message.DESCRIPTOR.fields}


def _plain(message: Message, name: str) -> Any:
    value = getattr(message, name)
    if isinstance(value, Message):
        return _fields(value) if message.HasField(name) else {}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str | bytes | int | float):
        return value
    return [_fields(each) for each in value]


def _value_from_wire(message: wire.FeatureValue, field_name: str) -> Value:
    kind = message.WhichOneof("value")
    if kind == "text":
        return message.text
    if kind == "number":
        return message.number
    if kind == "strings":
        return tuple(message.strings.values)
    raise InvalidInput(field_name, "expected a text, a number or strings, got none of them")


def _value_to_wire(value: Value) -> wire.FeatureValue:
    if isinstance(value, str):
        return wire.FeatureValue(text=value)
    if isinstance(value, int | float):
        return wire.FeatureValue(number=value)
    return wire.FeatureValue(strings=wire.StringList(values=value))
