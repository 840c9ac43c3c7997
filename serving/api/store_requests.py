"""Calls that are answered when the process of a store has replied."""

from collections.abc import Callable
from typing import Any

from twinspire.protos.errors import TwinspireError
from twinspire.serving.engine.call import Deferred
from twinspire.serving.live.process.frame_socket import Frame
from twinspire.serving.live.process.store_client import FrameKind, StoreClient


class StoreRequests:
    """Asks the process of a store for the calls of one worker.

    Args:
        client: the connection to the process.
        call_soon: calls a function soon on the event loop's thread; may itself be called on any thread.
    """

    def __init__(self, client: StoreClient, call_soon: Callable[[Callable[[], None]], None]) -> None:
        self._client, self._call_soon = client, call_soon

    def ask(
        self,
        kind: FrameKind,
        payload: bytes,
        repeatable: bool,
        outcome: Callable[[Frame], Any],
        items: int = 0,
    ) -> Deferred:
        """What `outcome` makes of the reply, or the error that it is.

        The other arguments and the errors are those of `StoreClient.ask`.
        """
        number = 0  # of the request; set below, before anything can call the lambda
        deferred = Deferred(lambda: self._client.forget(number))

        def answered(reply: Frame | TwinspireError) -> None:
            def give() -> Any:
                if isinstance(reply, TwinspireError):
                    raise reply
                return outcome(reply)

            self._call_soon(lambda: deferred.resolve(give))

        number = self._client.ask(kind, payload, answered, repeatable, items)
        return deferred
