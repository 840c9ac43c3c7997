"""How fast events are recorded, how soon they count, and what a search with a user costs.

    python -m tests.load.measure_events .cache/bundles/3f2a9c0d1e5b
    python -m tests.load.measure_events BUNDLE --url postgresql://USER@HOST/DATABASE --kills 20

The bundle's query tower has to take a history. The service has two workers, and the load runs in this
process, so rates are lower than those of clients with cores of their own; compare ratios. With `--kills`,
processes are killed while clients record events (`tests/load/loop/kills.py`); afterwards each acknowledged
event has to be stored once.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service
from tests.load.loop.kills import kills
from twinspire.protos.bundle import read_manifest
from twinspire.protos.system.machine import machine
from twinspire.serving.client import Event, Query, RetrievalClient

CLIENTS, BATCH = 8, 100
LENGTH = 50  # events of a history


def rate(service: CatalogueService, ids: Sequence[str], seconds: float) -> float:
    """Events a second of eight clients that each wait for the answer to a batch before the next one."""
    counts = [0] * CLIENTS
    until = time.monotonic() + seconds

    def record(number: int) -> None:
        chosen = random.Random(number)
        with service.client() as client:
            while time.monotonic() < until:
                users = [f"r{chosen.randrange(10**7)}" for _ in range(BATCH)]
                counts[number] += client.record([Event(each, chosen.choice(ids)) for each in users]).stored

    started = time.monotonic()
    in_threads(record)
    return sum(counts) / (time.monotonic() - started)


def in_threads(run: Any) -> None:
    """Run a function of a number in as many threads as there are clients."""
    threads = [threading.Thread(target=run, args=[n]) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def freshness(service: CatalogueService, rounds: int) -> list[float]:
    """Milliseconds from an acknowledgement to the first answer of another connection that it has changed."""
    found = []
    with service.client() as one, service.client() as other:
        for n in range(rounds):
            user = Query(user=f"f{n}")
            first = other.search(user, k=1, exclude_history=True).hits[0].id
            one.record([Event(f"f{n}", first)])
            acknowledged = time.perf_counter()
            while other.search(user, k=1, exclude_history=True).hits[0].id == first:
                pass
            found.append(1000 * (time.perf_counter() - acknowledged))
    return found


def hidden(service: CatalogueService, rounds: int) -> list[float]:
    """Milliseconds from an answer to the first one of another connection that leaves out what it showed."""
    found = []
    with service.client() as one, service.client() as other:
        for n in range(rounds):
            user = Query(user=f"h{n}")
            first = one.search(user, k=1).hits[0].id
            answered = time.perf_counter()
            while other.search(user, k=1, exclude_shown=60).hits[0].id == first:
                pass
            found.append(1000 * (time.perf_counter() - answered))
    return found


def ratio(
    client: RetrievalClient, ids: Sequence[str], rounds: int, searches: int, exclude_history: bool
) -> dict[str, Any]:
    """The median time of a search with a user over that with the same history in the request, in turns."""
    chosen = random.Random(1)
    name = "left out" if exclude_history else "kept"
    histories = {f"{name} {n}": chosen.sample(ids, min(LENGTH, len(ids))) for n in range(200)}
    for user, history in histories.items():
        client.record([Event(user, each, time=1e9 + n) for n, each in enumerate(history)])
    queries = {
        "history": [Query(history=tuple(each)) for each in histories.values()],
        "user": [Query(user=each) for each in histories],
    }
    times: dict[str, list[float]] = {name: [] for name in queries}
    for round_number in range(rounds + 1):  # the first is for warming up
        for name in random.Random(round_number).sample([*queries], 2):
            taken = []
            for n in range(searches):
                query = queries[name][n % 200]
                started = time.perf_counter()
                client.search(query, k=10, exclude_history=exclude_history)
                taken.append(time.perf_counter() - started)
            if round_number:
                times[name].append(1e6 * statistics.median(taken))
    ratios = [mine / own for mine, own in zip(times["user"], times["history"], strict=True)]
    return {
        "p50_us": {name: round(statistics.median(each), 1) for name, each in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(each, 3) for each in sorted(ratios)],
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile, to two digits."""
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 99)}


def measure(
    bundle: Path,
    rounds: int = 9,
    searches: int = 400,
    seconds: float = 10.0,
    kill_count: int = 0,
    url: str = "",
) -> dict[str, Any]:
    """All figures: of a service with the default flags, and of one that keeps which items it has shown.

    Args:
        bundle: whose queries are histories.
        rounds: of both kinds of searches.
        searches: of each kind in a round.
        seconds: of recording.
        kill_count: processes that are killed; 0 measures no kills.
        url: of the store; a new file of SQLite by default.
    """
    ids = read_manifest(bundle).schema.vocabularies["items"]
    with tempfile.TemporaryDirectory() as folder:
        url = url or f"sqlite:///{folder}/events.db"
        with catalogue_service(bundle, url, Path(folder), store="--events") as service:
            found: dict[str, Any] = {**machine(), "events_per_s": round(rate(service, ids, seconds))}
            found["changed_after_ms"] = percentiles(freshness(service, 100 * rounds))
            with service.client() as client:
                for name, excludes in (("search", False), ("exclude_history", True)):
                    found[name] = ratio(client, ids, rounds, searches, excludes)
        flags = ("--events-shown-hours", "1")
        with catalogue_service(bundle, url, Path(folder), *flags, store="--events") as service:
            found["hidden_after_ms"] = percentiles(hidden(service, 100 * rounds))
            with service.client() as client:
                found["search_with_shown"] = ratio(client, ids, rounds, searches, False)
            if kill_count:
                found["kills"] = kills(service, kill_count)
    return found


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--url", default="", help="of the store; a new file of SQLite by default")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--searches", type=int, default=400, help="in each half of a round")
    parser.add_argument("--seconds", type=float, default=10.0, help="of recording")
    parser.add_argument("--kills", type=int, default=0, help="of processes")
    given = parser.parse_args()
    found = measure(given.bundle, given.rounds, given.searches, given.seconds, given.kills, given.url)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
