"""Services that keep a log of their answers."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service
from twinspire.protos.files.served_log import SUFFIX

Serve = Callable[..., "LoggingService"]


class LoggingService:
    """A service with events and a served log of all answers, flushed often unless its flags say otherwise."""

    def __init__(self, service: CatalogueService, folder: Path) -> None:
        self.service, self.folder = service, folder

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all files, in the order of their times."""
        files = sorted(self.folder.glob(f"*T*/*{SUFFIX}"))
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        return sorted(rows, key=lambda row: row["time"])

    def pid(self) -> int:
        """The id of the log's process: it alone has pyarrow."""
        assert self.service.process is not None
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for child in psutil.Process(self.service.process.pid).children():
                with suppress(psutil.Error):
                    if any("libarrow" in each.path for each in child.memory_maps()):
                        return int(child.pid)
            time.sleep(0.05)
        raise AssertionError(f"there is no such process: {self.service.log}")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts services; arguments are a bundle, and more flags."""
    with ExitStack() as stack:

        def start(bundle: Path, *flags: str) -> LoggingService:
            url, folder = f"sqlite:///{tmp_path}/events.db", tmp_path / "log"
            given = ("--served-log", str(folder), "--served-log-share", "1", *flags)
            if "--served-log-flush-seconds" not in flags:
                given += ("--served-log-flush-seconds", "0.2")
            service = catalogue_service(bundle, url, tmp_path / "service", *given, store="--events")
            return LoggingService(stack.enter_context(service), folder)

        yield start
