"""Collections follow the aliases: of champion, challenger and the champions before it they stay."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from tests.helpers import releases
from tests.helpers.milvus import needs_lite
from tests.helpers.releases import NAME
from tests.helpers.stdlib import tracking_at
from twinspire.export.release import prune as pruning
from twinspire.export.release.commands import roll_back
from twinspire.export.release.prune import prune
from twinspire.export.release.registry import by_version
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.protos.vector_databases.milvus import URI, MilvusServer, collection_name
from twinspire.protos.vector_databases.milvus_collection import CollectionItems, draft_name, fill

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), needs_lite()]
FLAT = IndexParameters("ip", 8, 64, 64, kind="milvus", options={"type": "FLAT"})


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A registry with five versions, each with a collection, and a client of the collections."""
    monkeypatch.setenv(URI, str(tmp_path / "lite.db"))
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"):
        releases.register(tmp_path / "bundles", 1)
        for number in range(2, 6):
            version = releases.register_again(1).version
            mlflow.MlflowClient().set_model_version_tag(NAME, version, BUNDLE_VERSION, f"{number:064x}")
        client = MilvusServer.from_environment().connect()
        for number in range(1, 6):
            make(client, name_of(str(number)))
        yield client
        client.close()


def make(client: Any, name: str) -> None:
    items = CollectionItems([], ["a", "b", "c", "d"], {}, [])
    fill(client, name, np.eye(4, 8, dtype=np.float32), FLAT, items)


def name_of(number: str) -> str:
    return collection_name(by_version(NAME, number).tags[BUNDLE_VERSION])


def test_collections_of_aliases_and_of_the_champions_before_stay(
    store: Any, monkeypatch: pytest.MonkeyPatch
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
        make(store, each)
    told = prune(NAME, dry_run=True)
    assert told["dropped"] == sorted([names["1"], abandoned])
    assert {*store.list_collections()} == {*names.values(), other, old, abandoned, "theirs"}
    assert prune(NAME)["dropped"] == told["dropped"]
    assert {*store.list_collections()} == {*names.values(), other, old, "theirs"} - {names["1"]}
    assert roll_back(NAME) is not None  # to version 3, whose collection is there
    mlflow.MlflowClient().delete_registered_model_alias(NAME, "challenger")
    assert prune(NAME)["dropped"] == sorted([names["4"], names["5"]])
    assert prune(NAME) == {
        "name": NAME,
        "dry_run": False,
        "kept": sorted([names["2"], names["3"]]),
        "dropped": [],
    }


def test_a_collection_stays_while_any_alias_or_another_model_needs_it(store: Any) -> None:
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
    assert sorted(store.list_collections()) == kept
