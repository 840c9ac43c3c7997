from twinspire.protos import retrieval_pb2 as _retrieval_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WriteMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_UPSERT: _ClassVar[WriteMode]
    WRITE_INSERT: _ClassVar[WriteMode]
    WRITE_UPDATE: _ClassVar[WriteMode]

class WriteError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_OK: _ClassVar[WriteError]
    WRITE_EXISTS: _ClassVar[WriteError]
    WRITE_MISSING: _ClassVar[WriteError]
    WRITE_CONFLICT: _ClassVar[WriteError]
    WRITE_NOT_ENCODED: _ClassVar[WriteError]

class ItemOrigin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_UNKNOWN: _ClassVar[ItemOrigin]
    ITEM_LIVE: _ClassVar[ItemOrigin]
    ITEM_DELETED: _ClassVar[ItemOrigin]
    ITEM_BUNDLE: _ClassVar[ItemOrigin]
WRITE_UPSERT: WriteMode
WRITE_INSERT: WriteMode
WRITE_UPDATE: WriteMode
WRITE_OK: WriteError
WRITE_EXISTS: WriteError
WRITE_MISSING: WriteError
WRITE_CONFLICT: WriteError
WRITE_NOT_ENCODED: WriteError
ITEM_UNKNOWN: ItemOrigin
ITEM_LIVE: ItemOrigin
ITEM_DELETED: ItemOrigin
ITEM_BUNDLE: ItemOrigin

class Item(_message.Message):
    __slots__ = ("id", "features", "fields")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _retrieval_pb2.FeatureValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_retrieval_pb2.FeatureValue, _Mapping]] = ...) -> None: ...
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    features: _containers.MessageMap[str, _retrieval_pb2.FeatureValue]
    fields: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., features: _Optional[_Mapping[str, _retrieval_pb2.FeatureValue]] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ItemWrite(_message.Message):
    __slots__ = ("item", "expected_sequence")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    item: Item
    expected_sequence: int
    def __init__(self, item: _Optional[_Union[Item, _Mapping]] = ..., expected_sequence: _Optional[int] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("items", "mode", "request_id")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ItemWrite]
    mode: WriteMode
    request_id: str
    def __init__(self, items: _Optional[_Iterable[_Union[ItemWrite, _Mapping]]] = ..., mode: _Optional[_Union[WriteMode, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ItemDelete(_message.Message):
    __slots__ = ("id", "expected_sequence")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    expected_sequence: int
    def __init__(self, id: _Optional[str] = ..., expected_sequence: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("items", "request_id")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ItemDelete]
    request_id: str
    def __init__(self, items: _Optional[_Iterable[_Union[ItemDelete, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("sequence", "results", "repeated_request")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REPEATED_REQUEST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    repeated_request: bool
    def __init__(self, sequence: _Optional[int] = ..., results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ..., repeated_request: _Optional[bool] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("sequence", "error", "error_text")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_TEXT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    error: WriteError
    error_text: str
    def __init__(self, sequence: _Optional[int] = ..., error: _Optional[_Union[WriteError, str]] = ..., error_text: _Optional[str] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("items", "sequence")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ItemState]
    sequence: int
    def __init__(self, items: _Optional[_Iterable[_Union[ItemState, _Mapping]]] = ..., sequence: _Optional[int] = ...) -> None: ...

class ItemState(_message.Message):
    __slots__ = ("item", "sequence", "origin", "written_at")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_AT_FIELD_NUMBER: _ClassVar[int]
    item: Item
    sequence: int
    origin: ItemOrigin
    written_at: float
    def __init__(self, item: _Optional[_Union[Item, _Mapping]] = ..., sequence: _Optional[int] = ..., origin: _Optional[_Union[ItemOrigin, str]] = ..., written_at: _Optional[float] = ...) -> None: ...

class ChangesRequest(_message.Message):
    __slots__ = ("after", "follow")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    after: int
    follow: bool
    def __init__(self, after: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class ChangesResponse(_message.Message):
    __slots__ = ("changes", "sequence", "store_id")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[ItemState]
    sequence: int
    store_id: str
    def __init__(self, changes: _Optional[_Iterable[_Union[ItemState, _Mapping]]] = ..., sequence: _Optional[int] = ..., store_id: _Optional[str] = ...) -> None: ...
