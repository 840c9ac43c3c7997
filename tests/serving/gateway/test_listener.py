"""How many connections the listening socket accepts of each client, and how often."""

import socket
from contextlib import ExitStack

import pytest

from twinspire.serving.gateway import listener as module
from twinspire.serving.gateway.fairness import FairShare
from twinspire.serving.gateway.listener import Listener
from twinspire.serving.gateway.metrics import GatewayMetrics


@pytest.mark.parametrize(("most", "per_second", "reason"), [(4, 1000.0, "full"), (1000, 1.0, "rate")])
def test_a_client_above_its_share_or_rate_is_closed_and_others_are_accepted(
    most: int, per_second: float, reason: str
) -> None:
    share, closed = FairShare(most), GatewayMetrics().closed
    with ExitStack() as stack:
        listener = stack.enter_context(Listener())
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        listener.limit(share, per_second, closed)

        def connect(source: str) -> None:
            stack.enter_context(socket.create_connection(listener.getsockname(), 30, (source, 0)))

        for _ in range(10):
            connect("127.0.1.1")
        connect("127.0.1.2")
        accepted = []
        with pytest.raises(BlockingIOError):
            while True:
                accepted.append(stack.enter_context(listener.accept()[0]))
        assert closed.labels(reason)._value.get() > 0
        assert share.of("127.0.1.1") <= 3
        assert share.of("127.0.1.2") == 1
        for each in accepted:
            each.close()
            each.close()  # counts once
        assert share.held == 0


def test_a_connection_costs_more_while_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVED_SECONDS", 1000.0)  # 100 connections, and one more in 10 s
    with ExitStack() as stack:
        listener = stack.enter_context(Listener())
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        listener.setblocking(False)
        listener.limit(FairShare(1000), 0.1, GatewayMetrics().closed)

        def accepted(count: int, source: str) -> int:
            """Of connections that wait at once, those that are accepted."""
            for _ in range(count):
                stack.enter_context(socket.create_connection(listener.getsockname(), 30, (source, 0)))
            found = 0
            with pytest.raises(BlockingIOError):
                while True:
                    stack.enter_context(listener.accept()[0])
                    found += 1
            return found

        assert accepted(10, "127.0.1.1") == 10
        assert accepted(100, "127.0.1.2") < 50  # of the 100 that come one by one
        assert sum(accepted(1, "127.0.1.3") for _ in range(100)) == 100
