"""Whether the service lets a client call a method, asked before the gateway waits for the client's body."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import grpc

from twinspire.serving.gateway.failures import CLOSE, HttpFailure

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
UNKNOWN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
# Seconds for which an answer is kept. The service checks the call itself again, so that a revoked token only
# lets a client send a body in vain.
ALLOWED_SECONDS, REFUSED_SECONDS = 10.0, 1.0
MOST = 4096  # answers that are kept

Answer = tuple[grpc.StatusCode, str]
Ask = Callable[[], Awaitable[Answer]]
Key = tuple[str, str, bytes]  # client, for whose places its question waits; path; and a digest of the token


class Authorization:
    """The answers of a service, which are kept for seconds."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()  # until when, and the answer
        self._asking: dict[Key, asyncio.Task[Answer]] = {}

    async def check(self, client: str, path: str, token: str, ask: Ask) -> None:
        """Refuse a client that may not call a method.

        Args:
            client: that asks.
            token: the client's header `Authorization`; empty without one.
            ask: the status and its text that the service gives to a call of this client without a message.

        Raises:
            HttpFailure: the service does not know the token, or does not allow the method to it.
        """
        key = client, path, hashlib.sha256(token.encode()).digest()
        until, answer = self._answers.get(key, (0.0, (grpc.StatusCode.OK, "")))
        if until <= asyncio.get_running_loop().time():
            task = self._asking.get(key)
            if task is None:
                task = self._asking[key] = asyncio.create_task(self._ask(key, ask))
            answer = await asyncio.shield(task)
        code, text = answer
        if code in REFUSED:
            raise HttpFailure(code, text, headers=CLOSE)

    async def _ask(self, key: Key, ask: Ask) -> Answer:
        try:
            answer = await ask()
        finally:
            del self._asking[key]
        if answer[0] not in UNKNOWN:
            kept = REFUSED_SECONDS if answer[0] in REFUSED else ALLOWED_SECONDS
            self._answers[key] = asyncio.get_running_loop().time() + kept, answer
            self._answers.move_to_end(key)
            if len(self._answers) > MOST:
                self._answers.popitem(last=False)
        return answer
