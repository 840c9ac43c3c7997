"""The test split on a refreshed catalogue, with the gates of a promotion."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import altered, releases
from tests.helpers.refreshing import ACCEPT, World, without_processes
from tests.helpers.stdlib import Made, tracking_copy
from twinspire.export.evaluation import per_query
from twinspire.export.refresh.refresh import refresh
from twinspire.export.release import promote as release
from twinspire.export.release import registry
from twinspire.export.release.gate import ComparedVersion, Comparison
from twinspire.export.release.gates import GATES
from twinspire.export.release.paired_metrics import Evaluated, refreshed_without_metrics, stored
from twinspire.export.release.promote import compare_versions
from twinspire.protos import bundle
from twinspire.protos.errors import DataError
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store
from twinspire.train.data.training_data import TrainingData, training_data_of

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), pytest.mark.exhaustive]


@pytest.fixture
def released(made_once: Made, tmp_path: Path) -> Iterator[Made]:
    """`made_once`, its bundle the champion of a store of this test's own."""
    with tracking_copy(made_once, tmp_path):
        registry.register(made_once.folder)
        with pytest.MonkeyPatch.context() as patch:
            without_processes(World(tmp_path), patch)
            release.promote(made_once.experiment, releases.no_data, compare=ACCEPT)
        yield made_once


@pytest.fixture
def in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh starts no processes of its own; that of the first test does."""
    without_processes(World(tmp_path), monkeypatch)


def refreshed(made: Made, folder: Path, *items: ItemWrite, compare: object = ACCEPT) -> dict[str, Any]:
    url = f"sqlite:///{folder / 'items.db'}"
    with closing(Store.open(url)) as store:
        store.write([WriteRequest(items)])
    return refresh(made.experiment, lambda: made.dataset, url, compare=compare)  # type: ignore[arg-type]


def test_queries_that_ask_for_a_deleted_item_are_left_out_and_all_gates_hold(
    released: Made, tmp_path: Path
) -> None:
    gates = replace(released.experiment.gates, quality_margin=0.1)  # of few groups intervals are wide
    made = replace(released, experiment=replace(released.experiment, gates=gates))
    data = training_data_of(made.dataset, made.experiment.query, made.experiment.item)
    rows, relevant = data.parts["test"].by_query()
    lost = data.item_ids[int(relevant[0][0])]
    asked = sum(int(relevant[0][0]) in each for each in relevant)
    kept = data.item_ids[int(next(each[0] for each in relevant if int(each[0]) != int(relevant[0][0])))]
    new = json.dumps({"text": "Return a lamp that dims slowly."})
    done = refreshed(
        made,
        tmp_path,
        ItemWrite(lost, True),
        ItemWrite("shop.lamp", features=new, fields='{"name": "lamp"}'),
        compare=compare_versions,
    )
    assert done["bundle"]
    assert (done["encoded"], done["deleted"]) == (1, 1)
    decision = done["decision"]
    assert decision["accepted"], decision["verdict"]
    (gate,) = (each for each in decision["gates"] if each["name"] == "quality")
    assert f"over {len(rows) - asked:,} queries" in gate["text"]
    assert f"{asked:,} queries are left out, because they ask for deleted or edited items" in gate["text"]
    assert decision["measured"]["quality"]["left_out"].startswith(f"{asked:,} queries")
    own, before = per_query.load(Path(done["bundle"])), per_query.load(made.folder)
    assert own is not None and before is not None
    assert set(own.rows) < set(before.rows)
    shared, other = per_query.common(own, before)
    # The same towers and texts: a query's metrics change only where the new item or the gap moves an answer.
    same = shared.metrics["recall_at_10"] == other.metrics["recall_at_10"]
    assert same.mean() > 0.95
    manifest = bundle.read(Path(done["bundle"]))
    assert manifest.quality["queries_left_out"] == asked
    assert manifest.quality["warnings"] == bundle.read(made.folder).quality["warnings"] != []
    assert manifest.quality["ndcg_at_10"] == pytest.approx(float(own.metrics["ndcg_at_10"].mean()), abs=1e-6)
    ids = json.loads((Path(done["bundle"]) / bundle.ITEMS).read_bytes())["ids"]
    assert lost not in ids and kept in ids


def digest_of(data: TrainingData, row: int, relevant: Any) -> np.uint64:
    return np.uint64(per_query.digest(data, row, relevant))


@pytest.mark.usefixtures("in_this_process")
def test_queries_that_ask_for_an_edited_item_are_left_out(released: Made, tmp_path: Path) -> None:
    made = released
    data = training_data_of(made.dataset, made.experiment.query, made.experiment.item)
    rows, relevant = data.parts["test"].by_query()
    before = per_query.load(made.folder)
    assert before is not None
    digests = [digest_of(data, int(row), items) for row, items in zip(rows, relevant, strict=True)]
    chosen = next(n for n in range(len(rows)) if len(relevant[n]) == 1)
    asked = int(relevant[chosen][0])
    done = refreshed(
        made, tmp_path, ItemWrite(data.item_ids[asked], features=json.dumps({"text": "qqq zzz"}))
    )
    assert done["bundle"]
    own, manifest = per_query.load(Path(done["bundle"])), bundle.read(Path(done["bundle"]))
    assert own is not None
    gone = {int(digests[n]) for n in range(len(rows)) if asked in relevant[n].tolist()}
    assert int(digests[chosen]) in gone
    assert {*before.rows.tolist()} - {*own.rows.tolist()} == gone
    assert manifest.quality["queries_left_out"] == len(gone)
    sides = altered.side("2", Path(done["bundle"])), altered.side("1", made.folder)
    found = stored(Comparison(*sides, made.experiment, releases.no_data, tmp_path))
    assert isinstance(found, Evaluated) and found.queries.champion is not None
    assert np.array_equal(found.queries.challenger.rows, found.queries.champion.rows)
    assert found.queries.left_out == len(gone)
    # The next refresh does not have the new text, and leaves out the same queries.
    again = refreshed(made, tmp_path, ItemWrite("shop.lamp", features='{"text": "A lamp."}'))
    assert again["bundle"]
    later = per_query.load(Path(again["bundle"]))
    assert later is not None and np.array_equal(later.rows, own.rows)


@pytest.mark.usefixtures("in_this_process")
def test_without_the_data_set_the_gate_says_so_and_holds_for_the_same_towers_alone(
    released: Made, tmp_path: Path
) -> None:
    made = released
    url = f"sqlite:///{tmp_path / 'items.db'}"
    with closing(Store.open(url)) as store:
        store.write([WriteRequest([ItemWrite("shop.lamp", features='{"text": "a lamp"}')])])

    def away() -> None:
        raise DataError("items.parquet: there is no such file")

    done = refresh(made.experiment, away, url, compare=ACCEPT)  # type: ignore[arg-type]
    assert done["bundle"]
    manifest = bundle.read(Path(done["bundle"]))
    assert "there is no such file" in manifest.quality["not_measured"]
    challenger, champion = altered.side("2", Path(done["bundle"])), altered.side("1", made.folder)
    gate = GATES["quality"]

    result = gate.judge(Comparison(challenger, champion, made.experiment, releases.no_data, tmp_path, {}))
    assert result is not None
    assert (result[0].holds, result[0].figure) == (True, None)
    assert "not measured: the data set cannot be read" in result[0].text
    assert "the towers are those of the champion" in result[0].text
    files = {**champion.manifest.files, bundle.QUERY_TOWER: bundle.FileRecord("0" * 64, 1)}
    other = ComparedVersion("1", made.folder, replace(champion.manifest, files=files))
    assert refreshed_without_metrics(challenger, champion)
    assert not refreshed_without_metrics(challenger, other)  # then it is evaluated
