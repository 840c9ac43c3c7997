"""The start of a service that takes writes: its store, checked against what was encoded of it."""

import logging
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twinspire.protos.bundle import Snapshot
from twinspire.serving.live.config import CatalogueConfig
from twinspire.serving.live.encoded_items import position_of
from twinspire.serving.live.encoding.bundle_encoders import prune
from twinspire.serving.live.store.changes import Position
from twinspire.serving.live.store.store import Store

log = logging.getLogger(__name__)


def initial_catalogue_entry(config: CatalogueConfig, snapshot: Snapshot | None) -> dict[str, Any]:
    """The initial entry `CATALOGUE`, read from the store before the processes of the service have started.

    The store is created if it does not exist. It gets another id if it was restored from a copy.

    Args:
        config: of the store.
        snapshot: the state of a store from which the bundle was built.

    Raises:
        ConfigError: the store is not one, or is damaged.
        Unavailable: the store does not answer.
    """
    with closing(Store.open(config.url, config.bounds, check=True)) as store:
        folder = config.place / store.store_id
        if _is_restored(store, folder, snapshot):
            store.assign_new_id()
            log.warning(
                "the store was restored from a backup, or is a copy of another store; it now has the id %s: "
                "its items are encoded anew, and clients that follow its changes have to begin again",
                store.store_id,
            )
            prune(folder, most=0)
        position = store.position()
        return {
            "store_id": store.store_id,
            "sequence": position.sequence,
            "mark": position.mark,
            "bounds": asdict(store.bounds),
            "last_error": "",
        }


def _is_restored(store: Store, folder: Path, snapshot: Snapshot | None) -> bool:
    """Whether encoded items or a bundle that name the store's id are of changes that it has not made."""
    known = [position_of(each) for each in folder.glob("*")]
    if snapshot is not None and snapshot.store == store.store_id:
        known.append(Position(snapshot.sequence, snapshot.mark))
    return any(each is not None and store.was_at(each) is False for each in known)
