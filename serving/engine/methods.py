"""The methods of a service, with the kind of call of each."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from serving.engine.call import Call, Method, UnaryCall
from serving.engine.stream_call import StreamCall, WatchCall


def methods(service: ServiceDescriptor, servicer: Any, always: bool = False) -> dict[str, Method]:
    """The methods of a service by path.

    Args:
        service: of a .proto file.
        servicer: has a method of each name. If a method takes a stream, its requests are passed one by one;
            if only the answer is a stream, the last argument is a function that sends an answer.
        always: the methods are answered even if there is no room.
    """
    found = [_method(each, getattr(servicer, each.name), always) for each in service.methods]
    return {each.path: each for each in found}


def _method(method: MethodDescriptor, behaviour: Callable[..., Any], always: bool) -> Method:
    if method.client_streaming != method.server_streaming:
        call_type: type[Call] = WatchCall
    else:
        call_type = StreamCall if method.client_streaming else UnaryCall
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = GetMessageClass(method.input_type).FromString
    return Method(path, method.name, parse, behaviour, call_type, always)
