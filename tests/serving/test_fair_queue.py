"""Fair queues: a client below its share waits behind no backlog, whatever the others do, at any speed."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinspire.serving import fair_queue
from twinspire.serving.fair_queue import Client, Clients, FairQueue


def test_the_next_item_is_of_the_client_that_has_used_least() -> None:
    clients = Clients()
    queue: FairQueue[str] = FairQueue(clients)
    greedy, modest = Client("greedy"), Client("modest")
    for n in range(3):
        queue.add(greedy, f"greedy {n}")
    greedy.used += 1.0
    queue.add(modest, "modest")
    assert (queue.first_client, len(queue), queue.clients) == (modest, 4, 2)
    assert queue.take() == "modest"
    queue.put_back(modest, "modest")
    assert queue.take() == "modest"
    assert [queue.take() for _ in range(3)] == ["greedy 0", "greedy 1", "greedy 2"]
    assert (len(queue), queue.clients) == (0, 0)


def test_a_client_saves_up_no_time_while_it_is_idle() -> None:
    clients = Clients()
    queue: FairQueue[str] = FairQueue(clients)
    busy, idle = Client("busy"), Client("idle")
    for _ in range(1000):
        queue.add(busy, "busy")
        queue.take()
        busy.used += 0.01
    for _ in range(100):
        queue.add(busy, "busy")
        queue.add(idle, "idle")
    taken = []
    for _ in range(100):
        client = queue.first_client
        taken.append(queue.take())
        client.used += 0.01
    assert 49 <= Counter(taken)["idle"] <= 51


@pytest.mark.parametrize("queued", [1, 50])
def test_clients_that_come_anew_keep_no_other_waiting(queued: int) -> None:
    """A client whose items have cost a little more gets its share, however many others come once."""
    clients = Clients()
    queue: FairQueue[str] = FairQueue(clients)
    known = Client("known")
    for _ in range(200):
        queue.add(known, "known")
    known.used = 10.0
    order, names = [], itertools.count()
    for _ in range(20_000):
        while len(queue.line(known)) + queued > len(queue):
            queue.add(Client(str(next(names))), "fresh")
        client = queue.first_client
        order.append(queue.take())
        clients.charge(client, 0.1)
    first = order.index("known")
    assert first <= 10.0 / 0.1 * (queued + 1) + queued
    turns = Counter(order[first : first + 40 * (queued + 1)])["known"]
    assert 20 <= turns <= 80  # its share is 40


def test_a_client_with_a_line_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of long jobs are in a queue and not counted as waiting."""
    monkeypatch.setattr(fair_queue, "MAX_IDLE", 8)
    clients = Clients()
    kept = clients.of(b"ipv4:192.0.2.1:1", None)
    queue: FairQueue[str] = FairQueue(clients)
    queue.add(kept, "slice")
    for n in range(100):
        clients.of(b"ipv4:198.51.100.%d:1" % n, None)
        assert clients.of(b"ipv4:192.0.2.1:2", None) is kept
    assert queue.take() == "slice"
    for n in range(100):
        clients.of(b"ipv4:198.51.100.%d:1" % n, None)
    assert clients.of(b"ipv4:192.0.2.1:2", None) is not kept


@settings(deadline=None)
@given(
    costs=st.lists(st.floats(1e-5, 1.0), min_size=2, max_size=20),
    backlog=st.integers(1, 200),
    slowness=st.floats(0.01, 1000.0),
    seed=st.integers(0, 2**32),
)
def test_a_new_clients_item_waits_for_one_item_of_each_other_at_most(
    costs: list[float], backlog: int, slowness: float, seed: int
) -> None:
    """The costs of items differ by client, and `slowness` is that of the processor."""
    clients, rng = Clients(), random.Random(seed)
    queue: FairQueue[int] = FairQueue(clients)
    others = [Client(str(n)) for n in range(len(costs))]
    for client in others:
        for _ in range(backlog):
            queue.add(client, others.index(client))
    for _ in range(rng.randrange(len(others) * backlog)):
        client = queue.first_client
        queue.take()
        client.used += costs[others.index(client)] * slowness
    queue.add(Client("new"), -1)
    waited = []
    while (item := queue.take()) != -1:
        waited.append(item)
        others[item].used += costs[item] * slowness
    assert all(count == 1 for count in Counter(waited).values())


@given(
    asked=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 64)), max_size=300),
    room=st.integers(1, 2000),
    greed=st.integers(0, 2000),
)
def test_those_below_their_share_always_get_in_and_fill_little_more_than_the_room(
    asked: list[tuple[int, int]], room: int, greed: int
) -> None:
    """One client has as much waiting as it likes; the others come one after the other, in any order."""
    clients = Clients()
    greedy, others = Client("greedy"), [Client(str(n)) for n in range(31)]
    clients.wait(greedy, greed) if greed else None
    for number, count in asked:
        client = others[number]
        if clients.is_below_share(client, room, count):
            clients.wait(client, count)
        elif not client.waiting and clients.active:  # a newcomer's share is that of one more client
            assert count > room / (clients.active + 1)
    inside = [each.waiting for each in others if each.waiting]
    assert clients.active == len(inside) + (greed > 0)
    # The n-th of them has at most 1 / (n + 1) of the room.
    assert sum(inside) <= room * sum(1 / (n + 2) for n in range(len(inside))) + 1e-6
    for client in others:
        if client.waiting:
            clients.leave(client, client.waiting)
    assert clients.active == (greed > 0)


def test_the_client_with_most_is_shed_first_and_its_oldest_item_first() -> None:
    clients = Clients()
    queue: FairQueue[str] = FairQueue(clients)
    flooding, good = Client("flooding"), Client("good")
    for n in range(3):
        queue.add(flooding, f"flooding {n}")
        clients.wait(flooding, 1)
    queue.add(good, "good")
    clients.wait(good, 1)
    for n in range(2):
        assert queue.shed() == f"flooding {n}"
        clients.leave(flooding, 1)


def test_calls_with_one_token_and_connections_of_one_address_are_of_one_client() -> None:
    clients = Clients()
    one = clients.of(b"ipv4:192.0.2.1:5000", None)
    assert one.name == "192.0.2.1"
    assert clients.of(b"ipv4:192.0.2.1:5001", None) is one
    assert clients.of(b"ipv6:%5B::ffff:192.0.2.1%5D:5001", None) is one
    assert clients.of(b"ipv4:192.0.2.2:5000", None) is not one
    assert clients.of(b"ipv6:%5B2001:db8::1%5D:1", None) is clients.of(b"ipv6:%5B2001:db8::2%5D:1", None)
    assert clients.of(b"ipv4:192.0.2.1:5000", "shop") is clients.of(b"ipv4:192.0.2.9:1", "shop") is not one


def test_many_addresses_take_bounded_memory_and_active_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "MAX_IDLE", 8)
    clients = Clients()
    kept = clients.of(b"ipv4:192.0.2.1:1", None)
    clients.wait(kept, 1)
    for n in range(100):
        clients.of(b"ipv4:198.51.100.%d:%d" % (n, n + 1), None)
        assert clients.of(b"ipv4:192.0.2.1:2", None) is kept
    assert len(clients._by_name) <= 8


def test_a_client_is_ahead_only_while_others_call() -> None:
    clients = Clients()
    one, other = Client("one"), Client("other")
    one.used = 1.0
    clients.called(one, 10**10)
    clients.called(one, 10**10 + 2 * fair_queue.RIVALS_NS)
    assert not clients.have_rivals
    assert not clients.is_ahead(one, 0.1)
    clients.called(other, 10**10 + 2 * fair_queue.RIVALS_NS + 1)
    assert clients.have_rivals
    assert clients.is_ahead(one, 0.1)
    assert not clients.is_ahead(other, 0.1)
