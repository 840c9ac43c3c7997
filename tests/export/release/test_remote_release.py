"""A version whose items are in a vector database is released with its collection; aliases keep it."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from tests.helpers import releases
from tests.helpers.releases import NAME, Decide, aliased, make_challenger
from tests.helpers.stdlib import tracking_at
from tests.helpers.vector_databases import ENGINES, Engine
from twinspire.export.release import audit_log, registry
from twinspire.export.release import promote as releasing
from twinspire.export.release import prune as pruning
from twinspire.export.release.commands import audit_log_of, roll_back
from twinspire.export.release.gate import ComparedVersion
from twinspire.export.release.prune import prune
from twinspire.export.release.registry import by_version
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import ConfigError, MissingStage
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.protos.vector_databases.database import (
    VectorDatabase,
    bundle_of,
    collection_name,
    database_of,
    draft_name,
)
from twinspire.protos.vector_databases.items import CollectionItems
from twinspire.train.training.tracking import experiment_id

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
    pytest.mark.parametrize("engine", ENGINES, indirect=True),
]

FLAT = IndexParameters("ip", 8, 64, 64, options={"type": "FLAT"})


@dataclasses.dataclass(frozen=True)
class Store:
    """Two registered versions of one bundle, the folder of that bundle, and the database."""

    folder: Path
    database: VectorDatabase
    engine: Engine
    collection: str


@pytest.fixture
def database(engine: Engine, empty_store: Path, tmp_path: Path) -> Iterator[VectorDatabase]:
    """A database without collections; the registry is empty, too."""
    with (
        tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"),
        closing(engine.connect()) as made,
    ):
        yield made


@pytest.fixture
def store(engine: Engine, database: VectorDatabase, tmp_path: Path) -> Store:
    tracking = mlflow.MlflowClient()
    run_id = tracking.create_run(experiment_id(NAME)).info.run_id
    folder = releases.small_bundle(tmp_path / "bundles", "a", run_id=run_id, index=engine.index())
    version, _ = registry.register(folder)
    again = releases.register_again(1)
    for key, value in version.tags.items():
        tracking.set_model_version_tag(NAME, again.version, key, value)
    return Store(folder, database, engine, collection_name(bundle.read(folder).bundle_version))


def test_a_dropped_collection_is_noticed_before_a_release_and_written_by_registering_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.database.names() == [store.collection]  # `register` has written it
    files = mlflow.artifacts.load_text(f"models:/{NAME}/1/requirements.txt").splitlines()
    packages = database_of(store.engine.kind).packages
    assert {*packages} <= {each.partition("==")[0] for each in files}
    candidate = ComparedVersion("1", store.folder, bundle.read_manifest(store.folder))
    monkeypatch.setattr(releasing, "fetch", lambda _, number: (candidate.folder, candidate.manifest))
    experiment = releases.small_experiment(tmp_path)

    def promote(number: int, decide: Decide, **others: Any) -> dict[str, Any]:
        make_challenger(number)
        return releasing.promote(experiment, releases.no_data, compare=decide, **others)

    def drop() -> None:
        store.database.drop(store.collection)

    promote(1, Decide())
    promote(2, Decide())
    drop()
    refused = rf"version 1 cannot be served: there is no collection {store.collection} in "
    with pytest.raises(MissingStage, match=refused):
        roll_back(NAME)
    with pytest.raises(MissingStage, match=refused):
        promote(1, Decide(meanwhile=pytest.fail), force=True, reason="now")
    assert aliased("champion") == "2"
    registry.register(store.folder)
    with pytest.raises(MissingStage, match=refused):
        promote(1, Decide(meanwhile=drop))
    assert (aliased("champion"), len(audit_log_of(NAME)["records"])) == ("2", 2)
    registry.register(store.folder)
    assert roll_back(NAME) is not None
    assert aliased("champion") == "1"


def without_alias(version: str) -> None:
    """A version that `prune` keeps no collection for."""
    mlflow.MlflowClient().set_registered_model_alias(NAME, registry.CHALLENGER, version)
    mlflow.MlflowClient().delete_registered_model_alias(NAME, registry.CHALLENGER)


def test_a_rollback_to_a_version_whose_collection_is_dropped_meanwhile_says_how_to_write_it_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune` runs between the check of the collection and the alias."""
    without_alias("1")
    append = audit_log.append

    def prune_first(*arguments: Any) -> Any:
        assert prune(NAME)["dropped"] == [store.collection]
        return append(*arguments)

    monkeypatch.setattr(audit_log, "append", prune_first)
    with pytest.raises(
        MissingStage, match=r"no collection .+ `python -m twinspire.export register --bundle"
    ) as told:
        roll_back(NAME, to="1", reason="now")
    assert told.value.__notes__ == ["version 1 has become champion"]
    assert (aliased("champion"), audit_log_of(NAME)["records"][-1]["outcome"]) == ("1", "done")
    registry.register(store.folder)
    assert store.database.names() == [store.collection]


def test_prune_says_so_when_it_has_dropped_the_collection_of_a_version_that_got_an_alias(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback begins and ends between the last look at the aliases and the drop."""
    without_alias("1")
    drop = type(store.database).drop

    def roll_back_first(database: VectorDatabase, *given: Any) -> None:
        roll_back(NAME, to="1", reason="now")
        drop(database, *given)

    monkeypatch.setattr(type(store.database), "drop", roll_back_first)
    told = f"a version got an alias while its collection was dropped: {store.collection};"
    with pytest.raises(MissingStage, match=told):
        prune(NAME)


def test_a_collection_that_is_dropped_while_its_bundle_is_registered_is_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune` runs between the check of the collection and the alias."""
    without_alias("1")
    dropped: list[str] = []
    version_of = registry._version_of

    def prune_first(manifest: bundle.Manifest) -> Any:
        dropped.extend(prune(NAME)["dropped"])
        return version_of(manifest)

    monkeypatch.setattr(registry, "_version_of", prune_first)
    version, _ = registry.register(store.folder)
    assert (dropped, store.database.names()) == ([store.collection], [store.collection])
    assert aliased("challenger") == str(version.version)


@pytest.fixture
def five(database: VectorDatabase, tmp_path: Path) -> VectorDatabase:
    """The database, with a collection for each of five versions in the registry."""
    releases.register(tmp_path / "bundles", 1)
    for number in range(2, 6):
        version = releases.register_again(1).version
        mlflow.MlflowClient().set_model_version_tag(NAME, version, BUNDLE_VERSION, 64 * f"{number}")
    for number in range(1, 6):
        make(database, name_of(str(number)))
    return database


def make(database: VectorDatabase, name: str) -> None:
    vectors = np.eye(4, 8, dtype=np.float32)
    items = CollectionItems(database.limits, vectors, [], ["a", "b", "c", "d"], {}, [])
    database.create(name, items, FLAT, bundle_of(name) or "")


def name_of(number: str) -> str:
    return collection_name(by_version(NAME, number).tags[BUNDLE_VERSION])


def test_collections_of_aliases_and_of_the_champions_before_stay(
    five: VectorDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {str(n): name_of(str(n)) for n in range(1, 6)}
    for before, after in (("", "1"), ("1", "2"), ("2", "3"), ("3", "4")):
        releases.record_move(NAME, "promote", before, after)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "challenger", "5")
    other, old = collection_name("ab" * 32), draft_name("cd" * 32)
    long_ago = time.time() - 2 * pruning.DRAFT_SECONDS
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: long_ago)
        abandoned = draft_name("index")
    for each in (other, old, abandoned, "theirs"):
        make(five, each)
    told = prune(NAME, dry_run=True)
    assert told["dropped"] == sorted([names["1"], abandoned])
    assert {*five.names()} == {*names.values(), other, old, abandoned}
    assert prune(NAME)["dropped"] == told["dropped"]
    assert {*five.names()} == {*names.values(), other, old} - {names["1"]}
    assert five.describe("theirs") is not None
    assert roll_back(NAME) is not None  # to version 3, whose collection is there
    mlflow.MlflowClient().delete_registered_model_alias(NAME, "challenger")
    assert prune(NAME)["dropped"] == sorted([names["4"], names["5"]])
    assert prune(NAME) == {
        "name": NAME,
        "dry_run": False,
        "kept": sorted([names["2"], names["3"]]),
        "dropped": [],
    }


def test_a_collection_stays_while_any_alias_or_another_model_needs_it(five: VectorDatabase) -> None:
    client, names = mlflow.MlflowClient(), {str(n): name_of(str(n)) for n in range(1, 6)}
    client.set_registered_model_alias(NAME, "champion", "5")
    client.delete_registered_model_alias(NAME, "challenger")
    client.set_registered_model_alias(NAME, "canary", "3")
    client.copy_model_version(f"models:/{NAME}/2", "production")  # with its tags
    client.set_registered_model_alias("production", "champion", "1")
    client.copy_model_version(f"models:/{NAME}/4", "production")  # no alias of that model needs it
    kept = sorted(names[n] for n in "235")
    assert prune(NAME) == {
        "name": NAME,
        "dry_run": False,
        "kept": kept,
        "dropped": sorted(names[n] for n in "14"),
    }
    assert sorted(five.names()) == kept


def test_prune_needs_a_server(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.engine.variable)
    with pytest.raises(ConfigError, match="a server in TWINSPIRE_MILVUS_URI or TWINSPIRE_PGVECTOR_URI"):
        prune(NAME)
