"""The supervisor's watch over the files of tokens and certificates: it reads them, warns, and reports.

Workers read the same files by themselves: when a call comes, and when the supervisor tells them to. The
supervisor reads them too, since a worker that it starts later inherits their content. If the files have
become unusable by then, the new worker must not go back to their content at the start of the service, which
may name tokens that were revoked since.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric

from serving.board import Board
from serving.expiry import DAY, ExpiryLog, earliest_end
from serving.server import Access

log = logging.getLogger(__name__)

NOTE = "access"  # on the board; written here


class AccessFiles:
    """Token and certificate files, as the supervisor sees them.

    Args:
        access: with the files.
        board: with a note named `access`.
    """

    def __init__(self, access: Access, board: Board) -> None:
        self._access, self._board = access, board
        self._expiry = ExpiryLog()
        self._note: dict[str, Any] = {}

    def check(self) -> bool:
        """Read what has changed, warn of certificates, and update the note; returns whether any was read."""
        changed = [file.refresh() for file in self._access.files.values()]
        if self._access.tls:
            self._expiry.check(self._access.tls.content.certificates)
        note = self._current()
        if note != self._note:
            self._note = note
            self._board.write(NOTE, note)
        return any(changed)

    def reload(self) -> None:
        """Read everything again, whether it has changed or not."""
        self._access.reload()
        self._expiry.reset()
        read = [file.description for file in self._access.files.values()]
        log.info("SIGHUP: read again: %s", "; ".join(read) or "nothing, there are no such files")
        self.check()

    def _current(self) -> dict[str, Any]:
        ends, tls = {}, self._access.tls
        if tls:
            by_path = earliest_end(tls.content.certificates)
            named = {"certificate": tls.files.certificate, "client_ca": tls.files.client_ca}
            ends = {name: by_path[path] for name, path in named.items() if path}
        stale = {name: bool(file.error) for name, file in self._access.files.items()}
        return {"not_after": ends, "stale": stale}


def access_metrics(note: Mapping[str, Any]) -> Iterator[Metric]:
    """What a scrape shows of the files.

    Args:
        note: of the board.
    """
    ends = Gauge(
        "twinspire_certificate_not_after_timestamp_seconds",
        "Unix time at which the first certificate of the file expires.",
        labels=["file"],
    )
    left = Gauge(
        "twinspire_certificate_days_left",
        "Days until the first certificate of the file expires; negative afterwards.",
        labels=["file"],
    )
    stale = Gauge(
        "twinspire_access_file_stale",
        "1 while the file is missing or unusable, and the content read before counts.",
        labels=["file"],
    )
    for name, end in note.get("not_after", {}).items():
        ends.add_metric([name], end)
        left.add_metric([name], (end - time.time()) / DAY)
    for name, is_stale in note.get("stale", {}).items():
        stale.add_metric([name], float(is_stale))
    yield from (family for family in (ends, left, stale) if family.samples)
