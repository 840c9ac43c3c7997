"""When certificates are valid, and warnings before they expire.

The standard library decodes the dates of an authority's certificate, and of a peer's certificate that was
verified, but not of a server's own certificate. That takes a parser of X.509: `cryptography`. It is imported
only when a certificate is read, because it takes 15 MB of memory.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from protos.errors import ConfigError

log = logging.getLogger(__name__)

DAY = 86_400.0  # seconds
WARN_DAYS = (1, 7, 30)  # before the end; a warning is logged at each


class Certificate(NamedTuple):
    """The validity of one certificate in a file.

    Args:
        number: of the certificate in its file, from 1.
        not_before, not_after: Unix seconds.
    """

    path: Path
    number: int
    not_before: float
    not_after: float


def certificates(path: Path, pem: bytes) -> tuple[Certificate, ...]:
    """The validity of every certificate in a PEM file.

    Raises:
        ConfigError: there is no certificate, or one that cannot be parsed.
    """
    from cryptography import x509

    try:
        parsed = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{path}: expected certificates as PEM") from None
    return tuple(
        Certificate(path, n, each.not_valid_before_utc.timestamp(), each.not_valid_after_utc.timestamp())
        for n, each in enumerate(parsed, 1)
    )


def earliest_end(found: Sequence[Certificate]) -> dict[Path, float]:
    """File -> Unix seconds at which the first of its certificates expires."""
    ends: dict[Path, float] = {}
    for each in found:
        ends[each.path] = min(ends.get(each.path, each.not_after), each.not_after)
    return ends


def date(seconds: float) -> str:
    """Unix seconds as a date and time for the log."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


class ExpiryLog:
    """Warns of certificates that are not valid, or expire soon.

    A certificate that needs a warning gets one when it is first seen, and again 30, 7 and 1 days before it
    expires, and when it has expired.
    """

    def __init__(self) -> None:
        self._warned: Mapping[Certificate, str] = {}

    def check(self, found: Sequence[Certificate], now: float | None = None) -> None:
        """Log warnings that are due.

        Args:
            found: the certificates in use.
            now: Unix seconds; the current time if not given.
        """
        now = time.time() if now is None else now
        stages = {each: _stage(each, now) for each in found}
        for each, stage in stages.items():
            if stage and stage != self._warned.get(each, ""):
                log.warning("%s: certificate %d %s", each.path, each.number, _text(each, now))
        self._warned = stages

    def reset(self) -> None:
        """Repeat all warnings at the next check."""
        self._warned = {}


def _stage(certificate: Certificate, now: float) -> str:
    """The warning that is due; empty if there is none."""
    if now >= certificate.not_after:
        return "expired"
    if now < certificate.not_before:
        return "not yet valid"
    left = (certificate.not_after - now) / DAY
    return next((f"{days} days" for days in WARN_DAYS if left <= days), "")


def _text(certificate: Certificate, now: float) -> str:
    if now >= certificate.not_after:
        return f"expired on {date(certificate.not_after)}; certificates like it are refused"
    if now < certificate.not_before:
        return f"is not valid before {date(certificate.not_before)}; certificates like it are refused"
    left = (certificate.not_after - now) / DAY
    return f"expires on {date(certificate.not_after)}, in {left:.1f} days"
