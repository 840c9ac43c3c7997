"""The blocking client is made from the one for asyncio by tokens."""

import subprocess

import pytest

from tests.helpers.blocking_client import HEADER, blocking

SOURCE = '''\
"""Waits with `await`, for an AsyncIterator."""

import grpc.aio
from a import AsyncIterator, Iterable


class AsyncClient:
    async def __aenter__(self) -> AsyncIterator[int]:
        await_it, asynchronous = 1, grpc.aio.Call  # async and AsyncClient stay here
        async with grpc.aio.insecure_channel("grpc.aio") as channel:
            async for each in aiter(channel):
                return (await (await each(await_it)).aio_name)[0]
'''
EXPECTED = '''\
"""Waits with `await`, for an AsyncIterator."""

import grpc
from a import Iterable, Iterator


class Client:
    def __enter__(self) -> Iterator[int]:
        await_it, asynchronous = 1, grpc.Call  # async and AsyncClient stay here
        with grpc.insecure_channel("grpc.aio") as channel:
            for each in iter(channel):
                return ((each(await_it)).aio_name)[0]
'''


def test_code_becomes_blocking_and_texts_stay() -> None:
    assert blocking(SOURCE) == HEADER + EXPECTED


def test_what_is_no_python_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        blocking("async = 1\n")
