"""A server in a process of its own, whose memory and threads are its own: a program for `test_fuzz.py`.

`python -m tests.helpers.serving.lone BUNDLE` prints its port, and ends with its standard input; its log is on
standard error.
"""

import logging
import sys
from pathlib import Path

from tests.helpers.serving.loopback import configured
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    roomy = WorkerLimits(queue=256, calls=100)  # what is sent together shall be read, not refused
    with RetrievalServer(Retriever.load(Path(sys.argv[1])), configured(bounds=roomy)) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
