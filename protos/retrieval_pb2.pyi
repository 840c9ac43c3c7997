import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fusion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUSION_DEFAULT: _ClassVar[Fusion]
    FUSION_DENSE: _ClassVar[Fusion]
    FUSION_LEXICAL: _ClassVar[Fusion]
    FUSION_HYBRID: _ClassVar[Fusion]

class Plan(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLAN_UNFILTERED: _ClassVar[Plan]
    PLAN_EMPTY: _ClassVar[Plan]
    PLAN_EXACT: _ClassVar[Plan]
    PLAN_GRAPH: _ClassVar[Plan]
    PLAN_GRAPH_THEN_EXACT: _ClassVar[Plan]
    PLAN_POPULAR: _ClassVar[Plan]

class Basis(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BASIS_QUERY: _ClassVar[Basis]
    BASIS_CONTEXT: _ClassVar[Basis]
    BASIS_POPULAR: _ClassVar[Basis]
    BASIS_NONE: _ClassVar[Basis]

class ScoreKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORE_COSINE: _ClassVar[ScoreKind]
    SCORE_INNER_PRODUCT: _ClassVar[ScoreKind]
    SCORE_PROBABILITY: _ClassVar[ScoreKind]
FUSION_DEFAULT: Fusion
FUSION_DENSE: Fusion
FUSION_LEXICAL: Fusion
FUSION_HYBRID: Fusion
PLAN_UNFILTERED: Plan
PLAN_EMPTY: Plan
PLAN_EXACT: Plan
PLAN_GRAPH: Plan
PLAN_GRAPH_THEN_EXACT: Plan
PLAN_POPULAR: Plan
BASIS_QUERY: Basis
BASIS_CONTEXT: Basis
BASIS_POPULAR: Basis
BASIS_NONE: Basis
SCORE_COSINE: ScoreKind
SCORE_INNER_PRODUCT: ScoreKind
SCORE_PROBABILITY: ScoreKind

class Query(_message.Message):
    __slots__ = ("text", "history", "features", "item_id", "history_times", "user")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureValue, _Mapping]] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TIMES_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    text: str
    history: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.MessageMap[str, FeatureValue]
    item_id: str
    history_times: _containers.RepeatedScalarFieldContainer[float]
    user: str
    def __init__(self, text: _Optional[str] = ..., history: _Optional[_Iterable[str]] = ..., features: _Optional[_Mapping[str, FeatureValue]] = ..., item_id: _Optional[str] = ..., history_times: _Optional[_Iterable[float]] = ..., user: _Optional[str] = ...) -> None: ...

class FeatureValue(_message.Message):
    __slots__ = ("text", "number", "strings")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: float
    strings: StringList
    def __init__(self, text: _Optional[str] = ..., number: _Optional[float] = ..., strings: _Optional[_Union[StringList, _Mapping]] = ...) -> None: ...

class StringList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("query", "k", "exclude", "exclude_history", "filter", "min_sequence", "fusion", "min_score", "exclude_shown")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_HISTORY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SHOWN_FIELD_NUMBER: _ClassVar[int]
    query: Query
    k: int
    exclude: _containers.RepeatedScalarFieldContainer[str]
    exclude_history: bool
    filter: Filter
    min_sequence: int
    fusion: Fusion
    min_score: float
    exclude_shown: int
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., k: _Optional[int] = ..., exclude: _Optional[_Iterable[str]] = ..., exclude_history: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., min_sequence: _Optional[int] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., min_score: _Optional[float] = ..., exclude_shown: _Optional[int] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("all", "any", "condition")
    ALL_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    NOT_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    all: FilterList
    any: FilterList
    condition: Condition
    def __init__(self, all: _Optional[_Union[FilterList, _Mapping]] = ..., any: _Optional[_Union[FilterList, _Mapping]] = ..., condition: _Optional[_Union[Condition, _Mapping]] = ..., **kwargs) -> None: ...

class FilterList(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("field", "equals", "range", "present")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    EQUALS_FIELD_NUMBER: _ClassVar[int]
    IN_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    field: str
    equals: FilterValue
    range: Range
    present: bool
    def __init__(self, field: _Optional[str] = ..., equals: _Optional[_Union[FilterValue, _Mapping]] = ..., range: _Optional[_Union[Range, _Mapping]] = ..., present: _Optional[bool] = ..., **kwargs) -> None: ...

class FilterValue(_message.Message):
    __slots__ = ("text", "number", "boolean", "time")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: float
    boolean: bool
    time: _timestamp_pb2.Timestamp
    def __init__(self, text: _Optional[str] = ..., number: _Optional[float] = ..., boolean: _Optional[bool] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FilterValueList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[FilterValue]
    def __init__(self, values: _Optional[_Iterable[_Union[FilterValue, _Mapping]]] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("at_least", "above", "at_most", "below")
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    at_least: FilterValue
    above: FilterValue
    at_most: FilterValue
    below: FilterValue
    def __init__(self, at_least: _Optional[_Union[FilterValue, _Mapping]] = ..., above: _Optional[_Union[FilterValue, _Mapping]] = ..., at_most: _Optional[_Union[FilterValue, _Mapping]] = ..., below: _Optional[_Union[FilterValue, _Mapping]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("id", "score", "fields", "dense", "lexical", "prior")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: float
    fields: _containers.ScalarMap[str, str]
    dense: float
    lexical: float
    prior: float
    def __init__(self, id: _Optional[str] = ..., score: _Optional[float] = ..., fields: _Optional[_Mapping[str, str]] = ..., dense: _Optional[float] = ..., lexical: _Optional[float] = ..., prior: _Optional[float] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("hits", "bundle_version", "timing", "unknown_history", "basis", "plan", "sequence", "fusion", "weak", "request_id", "explored", "propensities")
    HITS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_HISTORY_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    WEAK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPLORED_FIELD_NUMBER: _ClassVar[int]
    PROPENSITIES_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    bundle_version: str
    timing: Timing
    unknown_history: int
    basis: Basis
    plan: Plan
    sequence: int
    fusion: Fusion
    weak: bool
    request_id: str
    explored: bool
    propensities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., bundle_version: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., unknown_history: _Optional[int] = ..., basis: _Optional[_Union[Basis, str]] = ..., plan: _Optional[_Union[Plan, str]] = ..., sequence: _Optional[int] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., weak: _Optional[bool] = ..., request_id: _Optional[str] = ..., explored: _Optional[bool] = ..., propensities: _Optional[_Iterable[float]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_us", "encode_us", "search_us")
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    ENCODE_US_FIELD_NUMBER: _ClassVar[int]
    SEARCH_US_FIELD_NUMBER: _ClassVar[int]
    queue_us: int
    encode_us: int
    search_us: int
    def __init__(self, queue_us: _Optional[int] = ..., encode_us: _Optional[int] = ..., search_us: _Optional[int] = ...) -> None: ...

class SearchBatchRequest(_message.Message):
    __slots__ = ("queries", "k", "exclude", "exclude_history", "filter", "min_sequence", "fusion", "min_score", "exclude_shown")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_HISTORY_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SHOWN_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    k: int
    exclude: _containers.RepeatedScalarFieldContainer[str]
    exclude_history: bool
    filter: Filter
    min_sequence: int
    fusion: Fusion
    min_score: float
    exclude_shown: int
    def __init__(self, queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., k: _Optional[int] = ..., exclude: _Optional[_Iterable[str]] = ..., exclude_history: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., min_sequence: _Optional[int] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., min_score: _Optional[float] = ..., exclude_shown: _Optional[int] = ...) -> None: ...

class SearchBatchResponse(_message.Message):
    __slots__ = ("results", "bundle_version", "timing", "sequence", "request_id")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[HitList]
    bundle_version: str
    timing: Timing
    sequence: int
    request_id: str
    def __init__(self, results: _Optional[_Iterable[_Union[HitList, _Mapping]]] = ..., bundle_version: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., sequence: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class HitList(_message.Message):
    __slots__ = ("hits", "unknown_history", "basis", "plan", "fusion", "weak", "explored", "propensities")
    HITS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_HISTORY_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    WEAK_FIELD_NUMBER: _ClassVar[int]
    EXPLORED_FIELD_NUMBER: _ClassVar[int]
    PROPENSITIES_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    unknown_history: int
    basis: Basis
    plan: Plan
    fusion: Fusion
    weak: bool
    explored: bool
    propensities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., unknown_history: _Optional[int] = ..., basis: _Optional[_Union[Basis, str]] = ..., plan: _Optional[_Union[Plan, str]] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., weak: _Optional[bool] = ..., explored: _Optional[bool] = ..., propensities: _Optional[_Iterable[float]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("queries", "items")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    items: _containers.RepeatedCompositeFieldContainer[UnseenItem]
    def __init__(self, queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., items: _Optional[_Iterable[_Union[UnseenItem, _Mapping]]] = ...) -> None: ...

class UnseenItem(_message.Message):
    __slots__ = ("features",)
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureValue, _Mapping]] = ...) -> None: ...
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    features: _containers.MessageMap[str, FeatureValue]
    def __init__(self, features: _Optional[_Mapping[str, FeatureValue]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("vectors", "bundle_version", "timing")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[Vector]
    bundle_version: str
    timing: Timing
    def __init__(self, vectors: _Optional[_Iterable[_Union[Vector, _Mapping]]] = ..., bundle_version: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("name", "bundle_version", "run_id", "dimension", "item_count", "query_features", "display_fields", "limits", "uptime_seconds", "manifest_json", "state", "filter_fields", "figures")
    class QueryFeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class FilterFieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUERY_FEATURES_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_FIELDS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELDS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    name: str
    bundle_version: str
    run_id: str
    dimension: int
    item_count: int
    query_features: _containers.ScalarMap[str, str]
    display_fields: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    uptime_seconds: float
    manifest_json: str
    state: ServiceState
    filter_fields: _containers.ScalarMap[str, str]
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    def __init__(self, name: _Optional[str] = ..., bundle_version: _Optional[str] = ..., run_id: _Optional[str] = ..., dimension: _Optional[int] = ..., item_count: _Optional[int] = ..., query_features: _Optional[_Mapping[str, str]] = ..., display_fields: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., uptime_seconds: _Optional[float] = ..., manifest_json: _Optional[str] = ..., state: _Optional[_Union[ServiceState, _Mapping]] = ..., filter_fields: _Optional[_Mapping[str, str]] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("metric", "system", "value", "low", "high")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    metric: str
    system: str
    value: float
    low: float
    high: float
    def __init__(self, metric: _Optional[str] = ..., system: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class ServiceState(_message.Message):
    __slots__ = ("uptime_seconds", "workers", "workers_up", "restarts", "requests", "queries", "refused", "queue_depth", "in_flight", "streams", "worker_pid", "queue_bound", "tls", "client_certificates", "tokens", "rate_per_second", "bundles", "following", "shadow", "unsent_bytes_bound", "connection_unsent_bytes_bound", "catalogue", "served_log", "events", "interleaving")
    class RequestsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_UP_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DEPTH_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    WORKER_PID_FIELD_NUMBER: _ClassVar[int]
    QUEUE_BOUND_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    RATE_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    FOLLOWING_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    UNSENT_BYTES_BOUND_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_UNSENT_BYTES_BOUND_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    SERVED_LOG_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    INTERLEAVING_FIELD_NUMBER: _ClassVar[int]
    uptime_seconds: float
    workers: int
    workers_up: int
    restarts: int
    requests: _containers.ScalarMap[str, int]
    queries: int
    refused: _containers.ScalarMap[str, int]
    queue_depth: int
    in_flight: int
    streams: int
    worker_pid: int
    queue_bound: int
    tls: bool
    client_certificates: bool
    tokens: bool
    rate_per_second: float
    bundles: _containers.RepeatedCompositeFieldContainer[ServedBundle]
    following: Following
    shadow: Shadow
    unsent_bytes_bound: int
    connection_unsent_bytes_bound: int
    catalogue: LiveCatalogue
    served_log: ServedLog
    events: RecordedEvents
    interleaving: Interleaving
    def __init__(self, uptime_seconds: _Optional[float] = ..., workers: _Optional[int] = ..., workers_up: _Optional[int] = ..., restarts: _Optional[int] = ..., requests: _Optional[_Mapping[str, int]] = ..., queries: _Optional[int] = ..., refused: _Optional[_Mapping[str, int]] = ..., queue_depth: _Optional[int] = ..., in_flight: _Optional[int] = ..., streams: _Optional[int] = ..., worker_pid: _Optional[int] = ..., queue_bound: _Optional[int] = ..., tls: _Optional[bool] = ..., client_certificates: _Optional[bool] = ..., tokens: _Optional[bool] = ..., rate_per_second: _Optional[float] = ..., bundles: _Optional[_Iterable[_Union[ServedBundle, _Mapping]]] = ..., following: _Optional[_Union[Following, _Mapping]] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ..., unsent_bytes_bound: _Optional[int] = ..., connection_unsent_bytes_bound: _Optional[int] = ..., catalogue: _Optional[_Union[LiveCatalogue, _Mapping]] = ..., served_log: _Optional[_Union[ServedLog, _Mapping]] = ..., events: _Optional[_Union[RecordedEvents, _Mapping]] = ..., interleaving: _Optional[_Union[Interleaving, _Mapping]] = ...) -> None: ...

class RecordedEvents(_message.Message):
    __slots__ = ("stored", "last_error")
    STORED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    stored: int
    last_error: str
    def __init__(self, stored: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...

class Interleaving(_message.Message):
    __slots__ = ("share", "answers", "alone")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    share: float
    answers: int
    alone: int
    def __init__(self, share: _Optional[float] = ..., answers: _Optional[int] = ..., alone: _Optional[int] = ...) -> None: ...

class ServedLog(_message.Message):
    __slots__ = ("rows", "dropped", "bytes", "last_error", "share", "explore_share")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    EXPLORE_SHARE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    dropped: int
    bytes: int
    last_error: str
    share: float
    explore_share: float
    def __init__(self, rows: _Optional[int] = ..., dropped: _Optional[int] = ..., bytes: _Optional[int] = ..., last_error: _Optional[str] = ..., share: _Optional[float] = ..., explore_share: _Optional[float] = ...) -> None: ...

class LiveCatalogue(_message.Message):
    __slots__ = ("store_id", "sequence", "worker_sequence", "live_items", "tombstones", "bounds", "last_error", "pid")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LIVE_ITEMS_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONES_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    sequence: int
    worker_sequence: int
    live_items: int
    tombstones: int
    bounds: CatalogueBounds
    last_error: str
    pid: int
    def __init__(self, store_id: _Optional[str] = ..., sequence: _Optional[int] = ..., worker_sequence: _Optional[int] = ..., live_items: _Optional[int] = ..., tombstones: _Optional[int] = ..., bounds: _Optional[_Union[CatalogueBounds, _Mapping]] = ..., last_error: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class CatalogueBounds(_message.Message):
    __slots__ = ("max_item_bytes", "max_batch", "max_overlay", "max_lag")
    MAX_ITEM_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_OVERLAY_FIELD_NUMBER: _ClassVar[int]
    MAX_LAG_FIELD_NUMBER: _ClassVar[int]
    max_item_bytes: int
    max_batch: int
    max_overlay: int
    max_lag: int
    def __init__(self, max_item_bytes: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_overlay: _Optional[int] = ..., max_lag: _Optional[int] = ...) -> None: ...

class ServedBundle(_message.Message):
    __slots__ = ("role", "bundle_version", "model_version", "share", "requests", "errors", "failures", "score_reference", "weak_score")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SCORE_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    WEAK_SCORE_FIELD_NUMBER: _ClassVar[int]
    role: str
    bundle_version: str
    model_version: str
    share: float
    requests: int
    errors: int
    failures: int
    score_reference: float
    weak_score: float
    def __init__(self, role: _Optional[str] = ..., bundle_version: _Optional[str] = ..., model_version: _Optional[str] = ..., share: _Optional[float] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., failures: _Optional[int] = ..., score_reference: _Optional[float] = ..., weak_score: _Optional[float] = ...) -> None: ...

class Following(_message.Message):
    __slots__ = ("model", "last_check", "next_check", "last_error", "failures", "candidate", "candidate_bundle", "candidate_stage", "swaps", "refused", "last_swap")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAST_CHECK_FIELD_NUMBER: _ClassVar[int]
    NEXT_CHECK_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_STAGE_FIELD_NUMBER: _ClassVar[int]
    SWAPS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    LAST_SWAP_FIELD_NUMBER: _ClassVar[int]
    model: str
    last_check: float
    next_check: float
    last_error: str
    failures: int
    candidate: str
    candidate_bundle: str
    candidate_stage: str
    swaps: int
    refused: int
    last_swap: float
    def __init__(self, model: _Optional[str] = ..., last_check: _Optional[float] = ..., next_check: _Optional[float] = ..., last_error: _Optional[str] = ..., failures: _Optional[int] = ..., candidate: _Optional[str] = ..., candidate_bundle: _Optional[str] = ..., candidate_stage: _Optional[str] = ..., swaps: _Optional[int] = ..., refused: _Optional[int] = ..., last_swap: _Optional[float] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("model", "bundle_version", "model_version", "queries", "dropped", "errors", "overlap_at_10", "score_shift", "empty", "last_error")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_AT_10_FIELD_NUMBER: _ClassVar[int]
    SCORE_SHIFT_FIELD_NUMBER: _ClassVar[int]
    EMPTY_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    model: str
    bundle_version: str
    model_version: str
    queries: int
    dropped: int
    errors: int
    overlap_at_10: float
    score_shift: float
    empty: int
    last_error: str
    def __init__(self, model: _Optional[str] = ..., bundle_version: _Optional[str] = ..., model_version: _Optional[str] = ..., queries: _Optional[int] = ..., dropped: _Optional[int] = ..., errors: _Optional[int] = ..., overlap_at_10: _Optional[float] = ..., score_shift: _Optional[float] = ..., empty: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_k", "default_k", "max_text_length", "max_batch", "max_exclude", "max_message_bytes", "max_values", "max_in_flight", "max_hits", "max_answer_bytes", "max_filter_conditions", "max_filter_values", "max_filter_depth")
    MAX_K_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_K_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_HITS_FIELD_NUMBER: _ClassVar[int]
    MAX_ANSWER_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_FILTER_CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_FILTER_VALUES_FIELD_NUMBER: _ClassVar[int]
    MAX_FILTER_DEPTH_FIELD_NUMBER: _ClassVar[int]
    max_k: int
    default_k: int
    max_text_length: int
    max_batch: int
    max_exclude: int
    max_message_bytes: int
    max_values: int
    max_in_flight: int
    max_hits: int
    max_answer_bytes: int
    max_filter_conditions: int
    max_filter_values: int
    max_filter_depth: int
    def __init__(self, max_k: _Optional[int] = ..., default_k: _Optional[int] = ..., max_text_length: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_exclude: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_values: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., max_hits: _Optional[int] = ..., max_answer_bytes: _Optional[int] = ..., max_filter_conditions: _Optional[int] = ..., max_filter_values: _Optional[int] = ..., max_filter_depth: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("queries", "min_sequence")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    MIN_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[QueryItems]
    min_sequence: int
    def __init__(self, queries: _Optional[_Iterable[_Union[QueryItems, _Mapping]]] = ..., min_sequence: _Optional[int] = ...) -> None: ...

class QueryItems(_message.Message):
    __slots__ = ("query", "item_ids")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    query: Query
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("results", "kind", "bundle_version", "timing", "sequence")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ItemScores]
    kind: ScoreKind
    bundle_version: str
    timing: Timing
    sequence: int
    def __init__(self, results: _Optional[_Iterable[_Union[ItemScores, _Mapping]]] = ..., kind: _Optional[_Union[ScoreKind, str]] = ..., bundle_version: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., sequence: _Optional[int] = ...) -> None: ...

class ItemScores(_message.Message):
    __slots__ = ("scores", "unknown_history", "basis")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_HISTORY_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[ItemScore]
    unknown_history: int
    basis: Basis
    def __init__(self, scores: _Optional[_Iterable[_Union[ItemScore, _Mapping]]] = ..., unknown_history: _Optional[int] = ..., basis: _Optional[_Union[Basis, str]] = ...) -> None: ...

class ItemScore(_message.Message):
    __slots__ = ("id", "score")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: float
    def __init__(self, id: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...
