"""A refresh makes a bundle of the champion's towers and the catalogue as it stands, once."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from rich.console import Console

from tests.helpers import tiny
from tests.helpers.refreshing import World, gone, item, vectors_of
from tests.helpers.releases import HELD, REFUSED, Decide
from tests.helpers.tiny_towers import DIMENSION
from twinspire.export.bundles import BUNDLES
from twinspire.export.encoding.encoding import encode_into
from twinspire.export.refresh import refresh as refreshing
from twinspire.export.refresh.refresh import show_refreshed
from twinspire.export.refresh.work import WORK
from twinspire.export.release import registry
from twinspire.export.release.commands import audit_log_of, roll_back
from twinspire.protos import bundle
from twinspire.protos.drift import DriftReference
from twinspire.protos.errors import DataError, GateRefused, MissingStage, TwinspireError, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.filters import column_values, read_filters
from twinspire.serving.live.store.store import Store
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow")

NAMES = tiny.item_names(60)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each refresh gives to the tower."""
    counts: list[int] = []

    def counted(output: Path, tower: Any, records: Any) -> Any:
        counts.append(len(records))
        return encode_into(output, tower, records)

    monkeypatch.setattr(refreshing, "encode_into", counted)
    return counts


def test_the_reference_for_drift_has_the_new_items_beside_those_of_training(world: World) -> None:
    empty, numbers = np.empty((0, 0), np.float32), np.arange(60, dtype=np.float32)[:, None]
    directions, known = np.zeros((1, DIMENSION), np.float32), np.zeros(1, np.uint8)
    rows = np.arange(60)
    world.release(drift=DriftReference(empty, empty, numbers, numbers, rows, known, directions, {}))
    world.write(item("lamp", "bavuti xelike"), item("item-003", "sotira"), gone("item-005"))
    folder = Path(world.refresh()["bundle"])
    assert folder is not None
    found = DriftReference.read(folder, bundle.read(folder))
    assert found is not None
    ids = json.loads((folder / bundle.ITEMS).read_bytes())["ids"]
    lengths = {"lamp": 13.0, "item-003": 6.0}
    assert found.rows.tolist() == [*range(60)]
    expected = [lengths[each] if each in lengths else float(each[-3:]) for each in ids]
    assert found.served[:, 0].tolist() == expected
    assert np.array_equal(found.trained, numbers)


@pytest.mark.exhaustive
def test_only_what_changed_is_encoded_and_all_else_stays_as_it_is(world: World, encoded: list[int]) -> None:
    champion = world.release(score_reference=0.75, weak_score=0.5)
    fields = {"name": "a lamp", "section": "light"}
    sequence = world.write(
        item("lamp", "bavuti xelike", fields, price=7.5, tags=["b", "a"]),
        item("item-003", "sotira zomoke", {"name": "changed"}),
        gone("item-005"),
        item("fault", "bavuti", released="never"),
    )
    done = world.refresh()
    assert encoded == [2]
    counts = {"items": 60, "kept": 58, "encoded": 2, "new": 1, "updated": 0, "deleted": 1, "failed": 1}
    assert counts.items() <= done.items()
    assert "released: expected an ISO date" in done["failed_items"]["fault"]
    assert done["bundle"]
    manifest = bundle.read(Path(done["bundle"]))
    assert manifest.catalogue is not None
    assert (manifest.catalogue.sequence, manifest.count) == (sequence, 60)
    assert (manifest.score_reference, manifest.weak_score) == (0.75, 0.5)
    source = bundle.read(champion)
    assert manifest.refreshed_from is not None
    assert manifest.refreshed_from.bundle_version == source.bundle_version
    assert [manifest.files[name] for name in bundle.TOWERS.values()] == [
        source.files[name] for name in bundle.TOWERS.values()
    ]
    before, after = vectors_of(champion), vectors_of(Path(done["bundle"]))
    assert before.keys() - after.keys() == {"item-005"}
    assert {each for each in before.keys() & after.keys() if before[each] != after[each]} == {"item-003"}
    expected = tiny.encode(Path(done["bundle"]) / bundle.ITEM_TOWER, ["bavuti xelike", "sotira zomoke"])
    np.testing.assert_allclose(np.frombuffer(after["lamp"], np.float32), expected[0], atol=1e-6)
    np.testing.assert_allclose(np.frombuffer(after["item-003"], np.float32), expected[1], atol=1e-6)
    retriever = Retriever.load(Path(done["bundle"]))
    (answer,) = retriever.search([Query("bavuti xelike")], 60)
    assert (answer.hits[0].id, answer.hits[0].fields) == ("lamp", fields)
    assert "item-005" not in {hit.id for hit in answer.hits}
    table = json.loads((Path(done["bundle"]) / bundle.ITEMS).read_bytes())
    old = json.loads((champion / bundle.ITEMS).read_bytes())
    row = table["ids"].index("item-004")
    assert table["popularity"][row] == old["popularity"][4] and table["popularity"][-1] == 0
    assert table["fields"]["section"][3] is None  # the item was written without it
    columns = read_filters(Path(done["bundle"]), manifest)
    values = {name: column_values(column, 60) for name, column in columns.items()}
    assert (values["price"][-1], values["tags"][-1]) == (7.5, ("a", "b"))
    known = {name: column_values(each, 60) for name, each in read_filters(champion, source).items()}
    for name in values:
        kept = [n for n in range(60) if n not in (3, 5)]
        assert [known[name][n] for n in kept] == [values[name][n - (n > 5)] for n in kept], name


def test_a_refresh_is_registered_promoted_and_logged_and_the_next_one_finds_nothing(
    world: World, encoded: list[int]
) -> None:
    world.release(unicode="3.2.0")
    world.write(item("lamp", "bavuti"))
    done = world.refresh()
    assert (world.alias("champion"), world.alias("challenger"), world.versions()) == ("2", "", ["1", "2"])
    record = audit_log_of(world.name)["records"][-1]
    assert (record["action"], record["before"], record["after"]) == ("promote", "1", "2")
    version = registry.by_version(world.name, "2")
    assert done["bundle"]
    manifest = bundle.read(Path(done["bundle"]))
    assert version.tags["refreshed_from"] == registry.by_version(world.name, "1").tags["bundle_version"]
    assert version.tags["run_id"] == manifest.run_id  # that trained the towers
    assert manifest.unicode == "3.2.0"  # of the training
    assert version.run_id is not None
    run = mlflow.get_run(version.run_id)
    assert run.data.tags["twinspire.stage"] == "refresh"
    assert (run.data.metrics["refresh/new"], run.data.metrics["refresh/sequence"]) == (1, 1)
    logged = {Path(each.path).name for each in mlflow.MlflowClient().list_artifacts(version.run_id, "export")}
    assert {"index.json", "quality.json", "refresh.json"} <= logged
    assert manifest.quality["not_measured"].startswith("the data set cannot be read")
    shown = _shown(world, done)
    assert "61 items, of sequence 1: 1 encoded, 60 kept; 1 new, 0 with other fields, 0 deleted" in shown
    assert "models:/tiny/2 is champion; before: version 1" in shown
    for _ in range(2):
        again = world.refresh()
        assert (again["bundle"], again["move"], again["encoded"]) == (None, None, 0)
        assert "models:/tiny/2 has the catalogue as it stands: nothing to refresh" in _shown(world, again)
    assert (world.versions(), encoded) == (["1", "2"], [1])
    assert not (WORK / world.name).exists()
    assert [*BUNDLES.glob(".making-*"), *BUNDLES.glob(".bundle-*")] == []
    world.write(item("lamp", "bavuti"))  # the same content, and a new sequence
    third = world.refresh()
    assert (third["encoded"], third["items"], encoded) == (0, 61, [1])
    assert third["bundle"] and vectors_of(Path(third["bundle"])) == vectors_of(Path(done["bundle"]))


def _shown(world: World, found: dict[str, Any]) -> str:
    """What the command prints, whose JSON can be written as well."""
    assert json.loads(json.dumps(found)).keys() == found.keys()
    console = Console(file=io.StringIO(), width=200)
    show_refreshed(found, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.exhaustive
def test_a_delete_is_not_brought_back_by_a_rollback_and_the_next_refresh(world: World) -> None:
    world.release()
    world.write(item("lamp", "bavuti"), gone("item-005"))
    world.refresh()
    roll_back(world.name, "1")
    done = world.refresh()  # the champion is the first again, and the changes are all new to it
    assert done["bundle"]
    held = vectors_of(Path(done["bundle"])).keys()
    assert "item-005" not in held and "lamp" in held
    assert world.alias("champion") != "1"


def write_table(path: Path, changed: dict[str, str], without: str = "") -> Path:
    """The items of the tiny bundle as CSV, some of them with other texts."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["item_id", "text", "name", "section", "tags", "price", "sale", "released"])
        for item_id, name in zip(tiny.item_ids(60), NAMES, strict=True):
            if item_id != without:
                table.writerow([item_id, changed.get(item_id, name), name, "", "", "1.5", "true", ""])
    return path


@pytest.mark.exhaustive
def test_a_table_takes_the_place_of_the_items_and_the_store_has_the_last_word(
    world: World, encoded: list[int], tmp_path: Path
) -> None:
    world.release()
    world.write(item("lamp", "bavuti"), gone("item-005"), item("item-006", "sotira"))
    first = world.refresh(write_table(tmp_path / "a.csv", {}, without="item-009"))
    assert first["bundle"]
    held = vectors_of(Path(first["bundle"]))
    assert held.keys() == {*tiny.item_ids(60), "lamp"} - {"item-005", "item-009"}
    (expected,) = tiny.encode(Path(first["bundle"]) / bundle.ITEM_TOWER, ["sotira"])
    np.testing.assert_allclose(np.frombuffer(held["item-006"], np.float32), expected, atol=1e-6)
    assert encoded == [59]  # the first bundle tells nothing of its items' content
    same = world.refresh(tmp_path / "a.csv")
    assert (same["bundle"], encoded) == (None, [59])
    done = world.refresh(write_table(tmp_path / "b.csv", {"item-003": "zomoke"}, without="item-009"))
    assert done["bundle"]
    assert (done["encoded"], done["updated"], encoded) == (1, 0, [59, 1])
    after = vectors_of(Path(done["bundle"]))
    assert {each for each in held if held[each] != after[each]} == {"item-003"}


@pytest.mark.exhaustive
def test_a_refused_refresh_leaves_the_champion_and_can_be_tried_again(
    world: World, encoded: list[int]
) -> None:
    world.release()
    world.write(item("lamp", "bavuti"))
    with pytest.raises(GateRefused, match="quality"):
        world.refresh(compare=Decide((HELD, REFUSED)))
    assert (world.alias("champion"), world.versions()) == ("1", ["1", "2"])
    assert not (WORK / world.name).exists()
    done = world.refresh()
    assert (world.alias("champion"), world.versions(), done["new"]) == ("2", ["1", "2"], 1)


@pytest.mark.exhaustive
def test_the_challenger_that_waited_gets_its_alias_back(world: World) -> None:
    world.release("a")
    world.release("b")
    roll_back(world.name, "1")
    mlflow.MlflowClient().set_registered_model_alias(world.name, "challenger", "2")  # it waits
    world.write(item("lamp", "bavuti"))
    world.refresh()
    assert (world.alias("champion"), world.alias("challenger")) == ("3", "2")


def test_what_a_refresh_cannot_start_with_is_an_error_that_says_what_to_do(
    world: World, tmp_path: Path
) -> None:
    with pytest.raises(MissingStage, match="no version is champion"):
        world.refresh()
    world.release(catalogue=None)
    with pytest.raises(Exception, match="there is no store at this URL"):
        world.refresh()
    with pytest.raises(MissingStage, match="nothing to refresh from"):
        world.refresh(catalogue="")
    with pytest.raises(DataError, match="there is no such file"):
        world.refresh(tmp_path / "none.csv", catalogue="")
    with exclusive_lock(WORK / f"{world.name}.lock"), pytest.raises(Unavailable, match="another refresh"):
        world.refresh()
    world.write(*(gone(each) for each in tiny.item_ids(60)))
    with pytest.raises(DataError, match="no item is left"):
        world.refresh()


def test_a_store_that_was_restored_from_a_copy_is_refused(world: World) -> None:
    world.write(item("lamp", "bavuti"))
    store = Store.open(world.url)
    world.release(catalogue=bundle.Snapshot(store.store_id, 5))
    store.close()
    with pytest.raises(TwinspireError, match="sequence 5 is of another history of the store"):
        world.refresh()
