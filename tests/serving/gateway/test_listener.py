"""How many connections the listening socket accepts of each client, and how often."""

import socket
from contextlib import ExitStack

import pytest

from twinspire.serving.gateway.fairness import FairShare
from twinspire.serving.gateway.metrics import GatewayMetrics
from twinspire.serving.gateway.process import Listener


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
