"""Filters on the wire: their bounds, their conversion in both directions, and the options of a search."""

from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.serving.filters.expression import (
    FILTER_FIELD,
    AllOf,
    AnyOf,
    Equals,
    Filter,
    In,
    Not,
    Present,
    Range,
    shown_name,
)
from twinspire.serving.filters.kinds import Time, Value
from twinspire.serving.filters.text import parse_filter
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.wire.converters import RequestLimits, fusion_from_wire, if_given

if TYPE_CHECKING:  # clients have no library of bitmaps
    from twinspire.serving.filters.columns import Work
    from twinspire.serving.filters.compiled import CompiledFilter, FilterCache
    from twinspire.serving.retrieval.query import SearchOptions
    from twinspire.serving.retrieval.retriever import Retriever

NANOSECONDS = 1_000_000_000  # in a second


def compile_filter(
    message: wire.Filter, filters: "FilterCache", limits: RequestLimits, work: "Work | None" = None
) -> "CompiledFilter":
    """A request's filter, compiled for a bundle, which keeps it under its serialised bytes.

    Args:
        message: the filter.
        filters: evaluates filters for the bundle.
        limits: bounds of the filter.
        work: counts the work of evaluating the filter, if the bundle has not kept it.

    Raises:
        InvalidInput: it is beyond a bound, or does not fit the bundle's filter fields.
    """
    content = message.SerializeToString(deterministic=True)
    kept = filters.kept(content)
    return filters.compile(filter_from_wire(message, limits), content, work) if kept is None else kept


def search_options(
    request: wire.SearchRequest | wire.SearchBatchRequest,
    retriever: "Retriever",
    limits: RequestLimits,
    with_filter: bool = True,
) -> "SearchOptions":
    """What a bundle searches for, by a request.

    Args:
        limits: bounds of the request; those of `exclude` are not checked.
        with_filter: whether to compile the request's filter, too.

    Raises:
        InvalidInput: a value is beyond a bound, or does not fit the bundle.
    """
    k, compiled = limits.k(request.k), None
    fusion = fusion_from_wire(request.fusion) if request.fusion else FusionMode.DEFAULT
    if with_filter and request.HasField("filter"):
        compiled = compile_filter(request.filter, retriever.filters, limits)
    exclude_history, min_score = if_given(request, "exclude_history"), if_given(request, "min_score")
    return retriever.search_options(k, request.exclude, exclude_history, compiled, fusion, min_score)


def filter_from_wire(message: wire.Filter, limits: RequestLimits) -> Filter:
    """A filter as a tree.

    Raises:
        InvalidInput: it is beyond a bound, or a part of it is empty; the error's field is its place in the
            tree, such as `filter.all[1].price`.
    """
    return _Reader(limits).filter(message, FILTER_FIELD, 1)


class _Reader:
    """Reads one filter, and counts its conditions and values against the bounds."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._conditions = self._values = 0

    def filter(self, message: wire.Filter, path: str, depth: int) -> Filter:
        if depth > (most := self._limits.max_filter_depth):
            raise InvalidInput(FILTER_FIELD, f"expected at most {most} filters inside each other, got more")
        kind = message.WhichOneof("kind")
        if kind is None:
            raise InvalidInput(path, "expected one of all, any, not and condition, got none of them")
        if kind == "condition":
            return self._condition(message.condition, path)
        path = f"{path}.{kind}"
        if kind == "not":
            return Not(self.filter(getattr(message, "not"), path, depth + 1))
        inner = getattr(message, kind).filters
        if not inner:
            raise InvalidInput(path, "expected at least one filter, got none")
        if len(inner) > (most := self._limits.max_filter_conditions):
            raise InvalidInput(FILTER_FIELD, f"expected at most {most} conditions, got more")
        parts = tuple(self.filter(each, f"{path}[{n}]", depth + 1) for n, each in enumerate(inner))
        return AllOf(parts) if kind == "all" else AnyOf(parts)

    def _condition(self, message: wire.Condition, path: str) -> Filter:
        self._conditions += 1
        if self._conditions > (most := self._limits.max_filter_conditions):
            raise InvalidInput(FILTER_FIELD, f"expected at most {most} conditions, got more")
        field, test = message.field, message.WhichOneof("test")
        path = f"{path}.{shown_name(field)}"
        if test is None:
            raise InvalidInput(path, "expected one of equals, in, range and present, got none of them")
        if test == "present":
            return Present(field, message.present)
        if test == "equals":
            return Equals(field, self._value(message.equals, path))
        if test == "range":
            given = message.range
            names = [each.name for each in given.DESCRIPTOR.fields if given.HasField(each.name)]
            bounds = {name: self._value(getattr(given, name), f"{path}.{name}") for name in names}
            if not bounds:
                raise InvalidInput(path, "expected a bound of the range, got none")
            return Range(field, **bounds)
        values = getattr(message, "in").values
        return In(field, tuple(self._value(each, f"{path}.in[{n}]") for n, each in enumerate(values)))

    def _value(self, message: wire.FilterValue, path: str) -> Value:
        self._values += 1
        if self._values > (most := self._limits.max_filter_values):
            raise InvalidInput(FILTER_FIELD, f"expected at most {most} values, got more")
        kind = message.WhichOneof("value")
        if kind is None:
            raise InvalidInput(path, "expected a text, a number, a boolean or a time, got none of them")
        if kind == "time":
            return _time(message.time, path)
        value: Value = getattr(message, kind)
        if isinstance(value, str) and len(value) > (most := self._limits.max_text_length):
            raise InvalidInput(path, f"expected at most {most} code points, got {len(value)}")
        return value


def _time(message: Timestamp, path: str) -> Time:
    if not 0 <= message.nanos < NANOSECONDS:
        raise InvalidInput(path, f"expected 0 to {NANOSECONDS - 1} nanos, got {message.nanos}")
    return Time(message.seconds * NANOSECONDS + message.nanos)


def filter_to_wire(filter: Filter | str) -> wire.Filter:
    """A filter as the service takes it.

    Args:
        filter: a tree, or a text as `serving.filters.text` describes.

    Raises:
        InvalidInput: the text is no filter, or a value cannot be sent, such as a string that is not Unicode.
        TypeError: it is not a filter.
    """
    try:
        return _to_wire(parse_filter(filter) if isinstance(filter, str) else filter)
    except UnicodeEncodeError:
        raise InvalidInput(FILTER_FIELD, "expected Unicode, got a lone surrogate") from None
    except OverflowError:
        raise InvalidInput(FILTER_FIELD, "expected a number that a double can hold") from None
    except RecursionError:
        raise InvalidInput(FILTER_FIELD, "has too many filters inside each other") from None


def _to_wire(node: Filter) -> wire.Filter:
    if isinstance(node, AllOf | AnyOf):
        parts = wire.FilterList(filters=map(_to_wire, node.filters))
        return wire.Filter(all=parts) if isinstance(node, AllOf) else wire.Filter(any=parts)
    if isinstance(node, Not):
        negated: dict[str, Any] = {"not": _to_wire(node.filter)}  # the name is a keyword of Python
        return wire.Filter(**negated)
    if isinstance(node, Equals):
        test: dict[str, Any] = {"equals": _value_to_wire(node.value)}
    elif isinstance(node, In):
        test = {"in": wire.FilterValueList(values=map(_value_to_wire, node.values))}
    elif isinstance(node, Range):
        bounds = {name: _value_to_wire(value) for name, value in node.bounds()}
        test = {"range": wire.Range(**bounds)}
    elif isinstance(node, Present):
        test = {"present": node.present}
    else:
        raise TypeError(f"expected a filter, such as where.price < 50, got {type(node).__name__}")
    return wire.Filter(condition=wire.Condition(field=node.field, **test))


def _value_to_wire(value: Value) -> wire.FilterValue:
    if isinstance(value, bool):
        return wire.FilterValue(boolean=value)
    if isinstance(value, str):
        return wire.FilterValue(text=value)
    if isinstance(value, Time):
        seconds, nanos = divmod(value.nanoseconds, NANOSECONDS)
        try:
            return wire.FilterValue(time=Timestamp(seconds=seconds, nanos=nanos))
        except ValueError:
            raise InvalidInput(FILTER_FIELD, "expected a time between the years 1 and 9999") from None
    return wire.FilterValue(number=float(value))
