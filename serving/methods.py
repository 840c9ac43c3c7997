"""The methods of services: how a request is read, and what answers it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from serving.rpc import Rpc, UnaryRpc
from serving.stream_rpc import StreamRpc, WatchRpc


@dataclass(frozen=True)
class Method:
    """One method of a service.

    Args:
        path: `/retrieval.v1.Retrieval/Search`.
        name: `Search`.
        parse: a message's bytes as a request.
        behaviour: what answers, as `rpc.py` says.
        rpc: what a call of it is.
        always: it is answered even where there is no room, for it costs little.
    """

    path: str
    name: str
    parse: Callable[[bytes], Any]
    behaviour: Callable[..., Any]
    rpc: type[Rpc]
    always: bool = False


def methods(service: ServiceDescriptor, servicer: Any, always: bool = False) -> dict[str, Method]:
    """The methods of a service by path.

    Args:
        service: as its .proto describes it.
        servicer: has a method of the name of each. One whose method takes a stream answers its requests one
            by one; one whose answer alone is a stream takes what to send them by as its last argument.
        always: its methods are answered even where there is no room.
    """
    found = [_method(each, getattr(servicer, each.name), always) for each in service.methods]
    return {each.path: each for each in found}


def _method(method: MethodDescriptor, behaviour: Callable[..., Any], always: bool) -> Method:
    if method.client_streaming != method.server_streaming:
        rpc: type[Rpc] = WatchRpc
    else:
        rpc = StreamRpc if method.client_streaming else UnaryRpc
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = GetMessageClass(method.input_type).FromString
    return Method(path, method.name, parse, behaviour, rpc, always)
