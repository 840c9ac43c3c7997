"""A service's methods as gRPC handlers that refuse at once when there is too much to do."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from protos.errors import Overloaded
from serving.pool import HandlerPool, InlinePool
from serving.status import status, trailers


class Methods(grpc.GenericRpcHandler):
    """All methods of a service, found by name.

    A handler may return a message, or its bytes.

    Args:
        service: as its .proto describes it.
        servicer: has a method of the name of each.
        pool: that the server runs its handlers on.
        refused: told of every request that is refused because the pool is full.
    """

    def __init__(
        self, service: ServiceDescriptor, servicer: Any, pool: HandlerPool, refused: Callable[[], None]
    ) -> None:
        self._handlers = {
            f"/{service.full_name}/{each.name}": _handler(each, getattr(servicer, each.name))
            for each in service.methods
        }
        self._pool = pool
        self._refused = refused
        # On the wire a call of one message is a stream of one. A handler of streams need not wait for the
        # message, so this one can answer on the thread that all calls come in by.
        self._refusal = grpc.stream_unary_rpc_method_handler(_Refusal(self._refuse))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a call; gRPC asks on the thread that all calls come in by."""
        handler = self._handlers.get(details.method)
        return self._refusal if handler is not None and self._pool.is_full else handler

    def _refuse(self, requests: Any, context: grpc.ServicerContext) -> None:
        self._refused()
        error = Overloaded("more requests are waiting than the service can answer in time", 0.1)
        context.set_trailing_metadata(trailers(error))
        context.abort(*status(error))


class _Refusal:
    """A behaviour that gRPC runs on a pool of its own."""

    experimental_thread_pool = InlinePool(1)

    def __init__(self, behaviour: Callable[[Any, grpc.ServicerContext], None]) -> None:
        self._behaviour = behaviour

    def __call__(self, requests: Any, context: grpc.ServicerContext) -> None:
        self._behaviour(requests, context)


def _handler(method: MethodDescriptor, behaviour: Any) -> grpc.RpcMethodHandler:
    arity = f"{_arity(method.client_streaming)}_{_arity(method.server_streaming)}"
    make: Any = getattr(grpc, f"{arity}_rpc_method_handler")
    handler: grpc.RpcMethodHandler = make(
        behaviour, GetMessageClass(method.input_type).FromString, _serialised
    )
    return handler


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _serialised(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())
