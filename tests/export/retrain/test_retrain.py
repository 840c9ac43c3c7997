"""A retraining takes clicks into a champion that finds new items, once, or says why it does not."""

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlflow
import pytest
from rich.console import Console

from tests.helpers.retraining import NAME, write_before, write_service
from tests.helpers.served import START, Answer, write_events, write_log
from tests.helpers.stdlib import drawn_once
from twinspire.export.refresh import sources
from twinspire.export.refresh.work import RefreshFolder
from twinspire.export.release import registry
from twinspire.export.release.commands import audit_log_of
from twinspire.export.retrain import retrain
from twinspire.export.retrain import retrain as retraining
from twinspire.export.retrain.retrain import WORK
from twinspire.protos.bundle import Snapshot
from twinspire.protos.errors import DataError, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.train.config import read_experiment
from twinspire.train.config.losses import Bce
from twinspire.train.data.dataset import prepare
from twinspire.train.data.sources import service
from twinspire.train.progress import PROGRESS
from twinspire.train.training import run as training
from twinspire.train.training.callbacks import RunCallbacks
from twinspire.train.training.run import choices_of
from twinspire.train.training.tracking import get_run
from twinspire.train.training.trained_model import load_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
    pytest.mark.usefixtures("store", "warm_fetches"),
    pytest.mark.timeout(900),
]


def run(config: Path, patch: pytest.MonkeyPatch, said: io.StringIO | None = None) -> dict[str, Any]:
    patch.setattr(PROGRESS, "_file", said or io.StringIO())
    patch.setattr(PROGRESS, "_width", 300)
    with drawn_once():
        return retrain.retrain(read_experiment(config), config.parent)


def champion() -> str:
    found = registry.by_alias(NAME, "champion")
    return "" if found is None else str(found.version)


def shown(result: dict[str, Any]) -> str:
    said = io.StringIO()
    retrain.show(result, Console(file=said, width=300))
    return said.getvalue()


def dies(*_: Any, **__: Any) -> None:
    raise Killed


class Killed(BaseException):
    """Stands for the end of the process."""


def test_clicks_on_new_items_make_a_champion_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(write_before(tmp_path), monkeypatch)
    assert (first["champion"], first["version"], champion()) == ("", "1", "1")
    assert first["promoted"]
    assert [each["kind"] for each in first["candidates"]] == ["scratch"]
    config = write_service(tmp_path, scratch_share=1.0)
    url = "postgresql://shop:hunter2@db/shop?sslmode=require"
    config.write_text(config.read_text().replace('"events.parquet"', f'"{url}"'))

    def exported(*_: Any) -> Path:
        return Path(shutil.copy(tmp_path / "events.parquet", tmp_path / f"{uuid4().hex}.parquet"))

    monkeypatch.setattr(service, "_events_file", exported)
    found = run(config, monkeypatch)
    assert found["promoted"] and not found["refused"], found["refused"]
    assert (found["champion"], found["version"], champion()) == ("1", "2", "2")
    assert {each["kind"] for each in found["candidates"]} == {"warm", "scratch"}
    best, other = found["candidates"]
    assert best["validation"] >= other["validation"]
    (warm,) = (each for each in found["candidates"] if each["kind"] == "warm")
    (scratch,) = (each for each in found["candidates"] if each["kind"] == "scratch")
    assert (
        scratch["start"] < 0.4 < warm["start"] < warm["validation"]
    )  # it knows the old items before the first step
    assert get_run(warm["run_id"]).data.params["data.events"] == url.replace("hunter2", "***")
    stored = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert stored and not [path for path in stored if b"hunter2" in path.read_bytes()]
    one = retraining._Retraining(read_experiment(config), tmp_path)
    experiment = one._with_data({"until": "2026-12-03T00:00:00+00:00", "items": ""})
    known = load_model(get_run(first["candidates"][0]["run_id"])).experiment
    parts = {name: getattr(known, name) for name in ("query", "item", "tower", "loss")}
    experiment = dataclasses.replace(experiment, **parts)
    assert choices_of(get_run(warm["run_id"]), experiment, prepare(experiment, tmp_path), pytest.fail)
    other = dataclasses.replace(experiment, loss=Bce("bce"))
    assert one._settings(other, prepare(experiment, tmp_path), get_run(warm["run_id"])) == {"scratch": other}
    assert "its loss is in_batch_softmax, and [loss] is bce" in one.notes[0]
    text = shown(found)
    for line in (
        "items: 60, of which the champion does not have 15",
        "weights: 600 pairs of the service",
        "warm less scratch on validation: ",
        "models:/tiny-shop/2 is champion; before: version 1",
    ):
        assert line in text
    record = audit_log_of(NAME)["records"][-1]
    assert (record["action"], record["after"]) == ("promote", "2")
    assert record["reason"].startswith("retrained; warm less scratch on validation: ")
    (quality,) = (gate for gate in record["gates"] if gate["name"] == "quality")
    assert quality["figure"] > 0  # better than the champion beyond chance, on its own answers too
    runs = len(mlflow.search_runs(experiment_names=[NAME], output_format="list"))
    again = run(tmp_path / "loop.toml", monkeypatch)
    assert again["done_before"] and again["version"] == "2"
    assert "nothing to do: these data were trained on before, and version 2 was promoted" in shown(again)
    assert len(mlflow.search_runs(experiment_names=[NAME], output_format="list")) == runs


@pytest.mark.exhaustive
def test_wrong_clicks_are_refused_and_the_champion_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(write_before(tmp_path), monkeypatch)
    found = run(write_service(tmp_path, 1200, wrong=0.72), monkeypatch)
    assert "version 2 is not promoted: quality" in found["refused"] and not found["promoted"]
    assert champion() == "1"
    assert [each["kind"] for each in found["candidates"]] == ["warm"]
    text = shown(found)
    assert found["refused"] in text and "models:/tiny-shop/1 stays champion" in text
    assert audit_log_of(NAME)["records"][-1]["action"] == "refuse"
    again = run(tmp_path / "loop.toml", monkeypatch)
    assert again["done_before"] and "version 2 was refused" in shown(again)
    assert champion() == "1"


@pytest.mark.exhaustive
def test_a_retraining_that_was_killed_at_any_stage_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(write_before(tmp_path), monkeypatch)
    config = write_service(tmp_path)

    class Stopping(RunCallbacks):
        def on_checkpoint(self, trainer: Any) -> None:
            super().on_checkpoint(trainer)
            if trainer.state.epoch == 3:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "RunCallbacks", Stopping)
        with pytest.raises(Killed):
            run(config, patch)
    write_log(tmp_path / "served", [Answer("new", START + 5e5, ["i1"], {"text": "later"})], worker=3)
    (tmp_path / "gone").mkdir()
    for path in (tmp_path / "served").glob("*/*-0.*"):  # the service deletes its oldest files
        path.rename(tmp_path / "gone" / path.name)
    places = [(retraining, "build_bundle"), (registry, "register"), (retraining, "promote")]
    for place in (*places, (retraining, "tracked_run")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, dies)
            said = io.StringIO()
            with pytest.raises(Killed):
                run(config, patch, said)
            assert "going on with a retraining that was interrupted" in said.getvalue()
            assert ("going on with epoch 4" in said.getvalue()) == (place == places[0])
    assert champion() == "2"  # promoted by the process that was killed then
    found = run(config, monkeypatch)
    assert (found["champion"], found["version"], found["done_before"]) == ("1", "2", False)
    assert [each["after"] for each in audit_log_of(NAME)["records"]] == ["1", "2"]
    assert not RefreshFolder(NAME, WORK).state.begun_with
    assert any("1 answers wait" in line for line in found["data"])  # the new answer is in the next version


def test_a_second_retraining_at_the_same_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_before(tmp_path)
    with exclusive_lock(WORK / f"{NAME}.lock"), pytest.raises(Unavailable, match="another retraining"):
        run(config, monkeypatch)


def test_an_error_of_data_lets_the_next_retraining_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_before(tmp_path)
    config = write_service(tmp_path)
    one = retraining._Retraining(read_experiment(config), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(retraining, "prepare", dies)
        with pytest.raises(Killed):
            one.run()
    assert RefreshFolder(NAME, WORK).state.begun_with["until"]
    write_events(tmp_path / "events.parquet", [])
    said = io.StringIO()
    with pytest.raises(DataError, match="no positive event follows"):
        run(config, monkeypatch, said)
    assert "going on" in said.getvalue()
    assert not RefreshFolder(NAME, WORK).state.begun_with


def test_every_fifth_retraining_is_from_scratch_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = retraining._Retraining(read_experiment(write_before(tmp_path)), tmp_path)
    found = []
    for before in range(10):
        monkeypatch.setattr(retraining, "finished_count", lambda *_, n=before: n)
        found.append(one._is_from_scratch("1"))
    assert [n for n, each in enumerate(found) if each] == [4, 9]
    assert one._is_from_scratch("")


def test_items_of_the_live_catalogue_are_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    write_before(tmp_path)
    experiment = read_experiment(write_service(tmp_path))
    change = sources.ItemChange(5, "live", False, {"title": "written live"}, {"title": "written live"})
    gone = sources.ItemChange(6, "i0", True, {}, {})

    def read(path: Path) -> tuple[Snapshot, list[sources.ItemChange]]:
        return Snapshot("store", 6), [change, gone]

    monkeypatch.setattr(sources, "take_snapshot", lambda url, *_: url == "sqlite:///live.db")
    monkeypatch.setattr(sources, "read_snapshot", read)
    one = retraining._Retraining(experiment, tmp_path, "sqlite:///live.db")
    begun, is_new = one._begin()
    assert is_new and begun["until"] == "2026-12-03T00:00:00+00:00"
    data = prepare(one._with_data(begun), tmp_path, console=console)
    assert "live" in data.items["item_id"] and "i0" not in data.items["item_id"]
    assert data.report["dropped"]["pair of the service with an unknown item"] > 0


def test_an_interrupted_retraining_of_another_champion_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = retraining._Retraining(read_experiment(write_before(tmp_path)), tmp_path)
    begun, _ = one._begin()
    assert one._begin() == (begun, False)
    one.work.note(begun_with={**begun, "champion": "3"})
    assert one._begin()[1]  # the alias was removed meanwhile
