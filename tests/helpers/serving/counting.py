"""A supervisor, two workers that count, and a process for scrapes: a program for `test_exporter.py`.

It prints a line for what has happened, and takes `kill SLOT` and `start SLOT` as lines; it ends with its
standard input.
"""

import os
import signal
import sys
from functools import partial

from tests.helpers.forking import fork
from twinspire.serving.observability import layout
from twinspire.serving.observability.exporter import serve_metrics
from twinspire.serving.observability.metrics import SECONDS
from twinspire.serving.observability.worker_metrics import SharedMetrics

CALLS = 500


def main() -> None:
    shared = SharedMetrics(workers=2)
    children = {slot: fork(partial(count, shared, slot)) for slot in range(2)}
    scraped = fork(partial(scrape, shared))
    for line in sys.stdin:
        command, _, number = line.partition(" ")
        slot = int(number)
        if command == "kill":
            end(children.pop(slot))
            shared.ended(slot)
            say(f"ended {slot}")
        else:
            children[slot] = fork(partial(count, shared, slot))
    for pid in (scraped, *children.values()):
        end(pid)


def count(shared: SharedMetrics, slot: int) -> None:
    mine = shared.worker(slot)
    for n in range(CALLS):
        mine.began()
        mine.waited(1, 100)
        mine.batch(2, 1000, 2000)
        mine.add(layout.QUERIES["SearchBatch"], 2)
        mine.observe(layout.STAGE_SECONDS["serialise"], SECONDS, 0.00005, 2)
        mine.finished("SearchBatch", "OK" if n % 5 else "DEADLINE_EXCEEDED", 0.004)
    mine.began()  # and never ends it
    mine.queued(3)
    say(f"counted {slot} {os.getpid()}")
    signal.pause()


def scrape(shared: SharedMetrics) -> None:
    with serve_metrics(shared) as port:
        say(f"port {port}")
        signal.pause()


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()
