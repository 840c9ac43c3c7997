"""The two clients used alike: a test that takes a way holds for each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from twinspire.serving.client import AsyncRetrievalClient, RetrievalClient

Way = Callable[..., Any]


def blocking(address: str, use: Callable[[Any], Any], **options: Any) -> Any:
    """The result of a function of a new client; `options` are those of the client."""
    with RetrievalClient(address, **options) as client:
        return use(client)


def asynchronous(address: str, use: Callable[[Any], Any], **options: Any) -> Any:
    """As `blocking`, for the client for asyncio."""

    async def run() -> Any:
        async with AsyncRetrievalClient(address, **options) as client:
            return await use(client)

    return asyncio.run(run())


WAYS: list[Way] = [blocking, asynchronous]


def streamed(stream: Iterator[Any] | AsyncIterator[Any]) -> Any:
    """All answers of a stream of either client; those of the one for asyncio have to be awaited."""
    if not isinstance(stream, AsyncIterator):
        return list(stream)

    async def found() -> list[Any]:
        return [each async for each in stream]

    return found()


def first(stream: Iterator[Any] | AsyncIterator[Any]) -> Any:
    """As `streamed`, of the first answer alone."""
    return anext(stream) if isinstance(stream, AsyncIterator) else next(stream)
