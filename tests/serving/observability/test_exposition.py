"""The whole text of a scrape, byte for byte, but for what differs between two runs."""

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

from twinspire.serving.datagrams import DatagramChannel
from twinspire.serving.observability import layout, metrics
from twinspire.serving.observability.exporter import serve_metrics
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.service_status import ServiceStatus, catalogue_readings
from twinspire.serving.shared_state import ENTRIES, SharedState

EXPECTED = Path(__file__).with_name("exposition.txt")
OLD, NEW, THIRD = "0a1b2c3d4e5f" + "0" * 52, "5f4e3d2c1b0a" + "0" * 52, "123456789abc" + "0" * 52
UNSTABLE = re.compile(
    r"^(twinspire_process_\w+\{.*\}|twinspire_worker_start_time_seconds\{.*\}"
    r"|twinspire_bundle_age_seconds) .*$",
    re.MULTILINE,
)


def count(shared: SharedMetrics) -> None:
    """What two workers count in a scripted session."""
    first, second = shared.worker(0), shared.worker(1)
    first.shows([OLD, NEW])
    second.shows([OLD])
    cell = float(int(OLD[:13], 16))
    for n in range(6):
        first.began()
        first.queued(n)
        first.waited(1, 15 * n)
        first.batch(n + 1, 100 * n, 200 * n)
        first.answered("Search", 2e-5 * n)
        first.finished("Search", "OK" if n else "NOT_FOUND", 0.0015 * n)
        first.versioned(cell, "OK" if n else "NOT_FOUND", 0.0015 * n)
    second.began()
    second.streams(3)
    second.batch(2, 30, 0, searched=0)
    second.answered("Upsert", 0.5)
    second.finished("Upsert", "INTERNAL", 11.0)
    second.versioned(cell, "INTERNAL", 11.0)
    second.turned_away("Drop", "UNIMPLEMENTED", "other")
    second.refused("deadline", 4)
    second.add(layout.CONNECTIONS_CLOSED["flood"])
    second.began()
    shared.ended(0)
    shared.worker(0).began()
    shared.hung(0)


def shared_state() -> SharedState:
    """The entries of a service that follows an alias, with a canary and a shadow."""
    made = SharedState(ENTRIES)
    old = {"folder": "gone", "bundle_version": OLD, "model_version": "3"}
    canary = {"folder": "gone", "bundle_version": NEW, "model_version": "4", "share": 0.25}
    made.write("target", {"serial": 2, "champion": old, "canary": canary})
    following: dict[str, Any] = {"last_check": 1.7e9, "failures": 2, "candidate": "5", "swaps": 3}
    made.write("following", {**following, "refused": 1, "last_swap": 1.6e9})
    sums = {"overlap": 3.75, "overlaps": 5, "shift": 0.0, "shifts": 0}
    counts = {"queries": 7, "errors": 1, "empty": 2, "dropped_before": 0}
    made.write("shadow", {"bundle_version": THIRD, **sums, **counts})
    made.write("access", {"stale": {"tokens": True, "tls": False}})
    return made


def scrape() -> str:
    """The text of a scrape after the session, with unstable values masked."""
    shared = SharedMetrics(workers=2)
    channel = DatagramChannel(workers=2)
    status = ServiceStatus(shared_state(), shared, channel)
    status._facts = "pydocs", OLD, 300, 4096, time.time() - 60
    count(shared)
    with serve_metrics(shared, collect=status.metrics) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
    channel.close()
    return UNSTABLE.sub(r"\1 *", text)


def test_a_scrape_has_the_names_the_order_and_the_values_that_dashboards_were_made_for() -> None:
    assert scrape() == EXPECTED.read_text()


def test_the_lag_of_each_worker_that_runs_is_told() -> None:
    shared = SharedMetrics(workers=4)
    for slot, (sequence, overlay) in enumerate([(7, 3), (12, 5), (9, 4)]):
        worker = shared.worker(slot)
        worker.set(layout.SEEN_SEQUENCE, sequence)
        worker.set(layout.OVERLAY_ROWS, overlay)
    shared.ended(2)
    found = dict(catalogue_readings({"sequence": 10}, shared.read()))
    assert found[metrics.CATALOGUE_WORKER_SEQUENCE] == [(["0"], 7.0), (["1"], 12.0)]
    assert found[metrics.CATALOGUE_WORKER_LAG] == [(["0"], 3.0), (["1"], 0.0)]
    assert found[metrics.CATALOGUE_OVERLAY] == [(["0"], 3.0), (["1"], 5.0)]
    again = shared.worker(1)  # does not show what the worker before it had applied
    assert again.row[layout.SEEN_SEQUENCE] == 0
