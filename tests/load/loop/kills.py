"""Kills the processes of a service that records events, and counts what became of the events.

Clients record at a fixed rate. Meanwhile a worker, the process that stores events, and the supervisor with
all that it has started are killed in turns (SIGKILL); the first two are started again by the supervisor, and
the supervisor by us. Clients send a request again, with its id, for as long as its timeout lasts.
"""

import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

import psutil

from tests.helpers.serving.cataloguing import CatalogueService
from tests.load.services import wait_for
from twinspire.protos.errors import TwinspireError
from twinspire.serving.client import Event
from twinspire.serving.events.store import EventStore

RATE = 500  # events a second, of all clients
WRITERS, BATCH = 8, 25
TIMEOUT = 60.0  # seconds of a request
PAUSE = 1.0, 3.0  # seconds between two kills
SEEN = 20.0  # seconds in which a killed process ends
VICTIMS = ("worker", "store", "supervisor")


def kill(service: CatalogueService, victim: str) -> None:
    """Kill one process, or the supervisor and so all of them; returns when it has ended."""
    if victim == "supervisor":
        service.stop(signal.SIGKILL)
        service.start()
        return
    process = wait_for(partial(_process, service, victim), f"{service.address}: no {victim} to kill")
    process.send_signal(signal.SIGKILL)
    process.wait(SEEN)


def _process(service: CatalogueService, victim: str) -> psutil.Process | None:
    """The process to kill; None if it is not there again yet."""
    with suppress(ValueError, TwinspireError, psutil.NoSuchProcess):
        return psutil.Process(service.store_pid() if victim == "store" else min(service.worker_pids()))
    return None


def kills(service: CatalogueService, count: int, victims: Sequence[str] = VICTIMS) -> dict[str, Any]:
    """What became of the events that were recorded while processes were killed.

    Args:
        count: of kills.
        victims: in turns.

    Returns:
        `killed`: victim -> times; numbers of events that were `acknowledged` and `refused`, of acknowledged
        ones that are `lost`, and of all that are stored `twice`; `events_per_s` that were acknowledged.
    """
    acknowledged: list[str] = []
    refused: list[str] = []
    done = threading.Event()

    def record(number: int) -> None:
        due = time.monotonic()
        with service.client(TIMEOUT) as client:
            for n in itertools.count():
                due += WRITERS * BATCH / RATE
                if done.wait(due - time.monotonic()):
                    return
                ids = [f"killed-{number}-{n}-{m}" for m in range(BATCH)]
                try:
                    client.record([Event(f"killed-{number}", each) for each in ids])
                    acknowledged.extend(ids)
                except TwinspireError:
                    refused.extend(ids)

    threads = [threading.Thread(target=record, args=[n]) for n in range(WRITERS)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    killed = Counter[str]()
    try:
        for victim in itertools.islice(itertools.cycle(victims), count):
            time.sleep(random.uniform(*PAUSE))
            kill(service, victim)
            killed[victim] += 1
        time.sleep(PAUSE[1])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    seconds = time.monotonic() - begun
    with closing(EventStore.open(service.url, create=False)) as store, store.all() as parts:
        stored = Counter(row.item_id for part in parts for row in part if row.user_key.startswith("killed-"))
    return {
        "killed": dict(killed),
        "events_per_s": round(len(acknowledged) / seconds),
        "acknowledged": len(acknowledged),
        "refused": len(refused),
        "lost": len({*acknowledged} - stored.keys()),
        "twice": sum(number > 1 for number in stored.values()),
    }
