"""The configuration of live writes: where the store is, and where what is encoded of it goes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Where live items are by default; `TWINSPIRE_CACHE` names another folder than `.cache`.
LIVE = Path(os.environ.get("TWINSPIRE_CACHE") or ".cache") / "live"
# Least number of seconds without a heartbeat after which the catalogue's process is replaced. It sends none
# while it waits for its database, whose own timeouts are shorter (`store/database.py`).
PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class CatalogueConfig:
    """The store of live items.

    Args:
        url: of the store, `sqlite:///path` or `postgresql://user@host/database`.
        place: folder with the encoded items of each bundle; services of one host should share it.
        bounds: of writes, by name; those that are not given stay as the store has them.
    """

    url: str
    place: Path = LIVE
    bounds: Mapping[str, int] = field(default_factory=dict)


def default_url() -> str:
    """The URL of the store in a file beside what is encoded of it."""
    return f"sqlite:///{(LIVE / 'items.db').absolute()}"
