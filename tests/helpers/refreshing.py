"""A champion in a real registry, a real store of live items beside it, and refreshes of both."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from tests.helpers import releases
from tests.helpers.releases import Decide, small_bundle
from tests.helpers.stdlib import write_toml
from tests.helpers.tiny import FILTERS
from twinspire.export.bundles import BUNDLES
from twinspire.export.refresh import refresh as steps
from twinspire.export.refresh import sources
from twinspire.export.release import promote as release
from twinspire.export.release import registry
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage
from twinspire.serving import catalogue
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.data.dataset import Dataset
from twinspire.train.training.tracking import experiment_id

ACCEPT = Decide()


def no_data() -> Dataset:
    raise MissingStage("the data set is away")


@dataclass
class World:
    """A champion of 60 items, and a store.

    Args:
        folder: of the store and the experiment.
        name: of the model.
    """

    folder: Path
    name: str = releases.NAME

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'items.db'}"

    @property
    def experiment(self) -> Experiment:
        return read_experiment(write_toml(self.folder, self.folder / f"{self.name}.toml", self.name))

    def release(self, report: str = "first", **manifest: Any) -> Path:
        """Register a bundle, and make it the champion."""
        client = mlflow.MlflowClient()
        run = client.create_run(experiment_id(self.name))
        folder = small_bundle(
            self.folder / "bundles",
            report,
            run_id=run.info.run_id,
            filters=FILTERS,
            name=self.name,
            **manifest,
        )
        registry.register(folder)
        client.set_terminated(run.info.run_id)
        release.promote(self.experiment, releases.no_data, compare=ACCEPT)
        return folder

    def write(self, *items: ItemWrite) -> int:
        """Write items into the store; returns its sequence."""
        with closing(Store.open(self.url)) as store:
            store.write([WriteRequest(items)])
            return store.sequence()

    def refresh(
        self,
        items: Path | None = None,
        compare: Any = ACCEPT,
        data: Callable[[], Dataset] = no_data,
        catalogue: str | None = None,
    ) -> dict[str, Any]:
        url = self.url if catalogue is None else catalogue
        return steps.refresh(self.experiment, data, url, items, compare)

    def alias(self, name: str) -> str:
        """Number of the version that has an alias, empty if none has."""
        found = registry.by_alias(self.name, name)
        return "" if found is None else str(found.version)

    def versions(self) -> list[str]:
        found = mlflow.MlflowClient().search_model_versions(f"name = '{self.name}'")
        return sorted(str(each.version) for each in found)


def without_processes(world: World, patch: pytest.MonkeyPatch) -> None:
    """Let refreshes do here what they do in processes of their own, which take seconds to start."""

    def fetch(name: str, number: str) -> tuple[Path, bundle.Manifest]:
        version = registry.by_version(name, number).tags["bundle_version"]
        places = (BUNDLES / version[:12], world.folder / "bundles" / version[:12])
        folder = next(each for each in places if each.exists())
        return folder, bundle.read(folder)

    def ask(*arguments: str) -> Any:
        given = catalogue._parser().parse_args(arguments)
        return given.run(given.catalogue, given) if given.catalogue else None

    patch.setattr(registry, "fetch", fetch)
    patch.setattr(release, "fetch", fetch)
    patch.setattr(sources, "_catalogue", ask)


def item(item_id: str, text: str, fields: Mapping[str, str] | None = None, **features: Any) -> ItemWrite:
    values = json.dumps({"text": text, **features})
    return ItemWrite(item_id, features=values, fields=json.dumps(dict(fields or {})))


def gone(item_id: str) -> ItemWrite:
    return ItemWrite(item_id, True)


def vectors_of(folder: Path) -> dict[str, bytes]:
    """Item id -> bytes of its vector, as the bundle stores them."""
    ids = json.loads((folder / bundle.ITEMS).read_bytes())["ids"]
    rows = np.load(folder / bundle.VECTORS)
    return {item_id: rows[n].tobytes() for n, item_id in enumerate(ids)}
