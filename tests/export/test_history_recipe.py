"""The recipe for histories, from the log to a bundle: attention over events, and a sum over sessions."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import QUICK, Made, make_of, shared_made
from tests.helpers.watched import ATTENTION, write_toml
from twinspire.export.release.gate import ComparedVersion
from twinspire.export.release.paired_metrics import evaluate
from twinspire.protos import bundle
from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import HistoryFeature
from twinspire.serving.retrieval.answer import Basis
from twinspire.serving.retrieval.query import Query, example_query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.data.training_data import training_data_of

pytestmark = pytest.mark.exhaustive

HISTORY = ("f041", "f042", "f043")
TIMES = (1_086_400.0, 1_086_460.0, 1_086_520.0)


def run_of_recipe(split: str, films: Path, empty_store: Path, folder: Path) -> Made:
    """A run of the recipe for histories with one kind of split, and its bundle."""
    sections = {
        **{name: each for name, each in ATTENTION.items() if name != "loss"},
        **QUICK,
        "split": {"by": split},
        "query.history": {"kind": "history", "max_length": 20, "times": True},
        "query.time": {"kind": "time"},
        "tower": {"kind": "history", "buckets": 512},
        "training": {
            "epochs": 2,
            "average_epochs": 0.2,
            "refit": True,
            "learning_rate": 2e-3,
            "selection": "ndcg_at_10",
            "threads": 1,
        },
        "baselines": {"run": ["popularity"]},
    }
    return make_of(write_toml(films, folder / "a.toml", "recipe", sections), empty_store, folder)


@pytest.fixture(scope="module")
def of_events(films: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run whose towers attend to events, and its bundle."""
    return shared_made(
        tmp_path_factory, "recipe", lambda folder: run_of_recipe("last", films, empty_store, folder)
    )


def reads_times(manifest: bundle.Manifest) -> bool:
    spec = manifest.schema.query["history"]
    assert isinstance(spec, HistoryFeature)
    return spec.times


def test_attention_reads_the_times_of_histories(of_events: Made) -> None:
    manifest = bundle.read(of_events.folder)
    assert reads_times(manifest)
    retriever = Retriever.load(of_events.folder)
    plain, dated = (Query(history=HISTORY), Query(history=HISTORY, history_times=TIMES))
    first, second = retriever.encode([plain, dated]).vectors
    assert abs(first - second).max() > 1e-4
    assert retriever.search([example_query(each) for each in manifest.examples], 5)


def test_a_query_has_a_time_and_without_one_is_asked_now(of_events: Made) -> None:
    assert float(of_events.run.data.params["recent_popularity.weight"]) > 0
    manifest = bundle.read(of_events.folder)
    assert manifest.examples[0]["time"] > 1_000_000
    assert manifest.quality["ndcg_at_10"] == pytest.approx(of_events.metrics["ndcg_at_10"], abs=0.01)

    def at(time: float) -> Query:
        return Query(history=HISTORY, features={"time": time})

    with client_of(of_events.folder) as client:
        now, later, early, before = (
            client.search(each, 20).hits for each in (Query(history=HISTORY), at(1e9), at(1_300_000), at(0))
        )
        assert now == later
        assert len({tuple(hit.score for hit in hits) for hits in (now, early, before)}) == 3
        known = {"time": 1_300_000.0}
        new, lost = (
            client.search(Query(history=each, features=known), 20) for each in ((), ("no such film",))
        )
        for answer in (new, lost, client.search(Query())):  # not the popular items of all time
            assert answer.basis is Basis.CONTEXT
        assert new.hits == lost.hits
        scores = client.score(Query(features=known), [hit.id for hit in new.hits])
        assert [hit.score for hit in new.hits] == pytest.approx(
            [score for _, score in scores.items], abs=1e-6
        )
        assert new.hits != client.search(Query(), 20).hits  # which is asked now
        with pytest.raises(InvalidInput, match=r"query\.features\.time: expected seconds since 1970"):
            client.search(at(2e12))
        with pytest.raises(InvalidInput, match=r"query\.features\.time: expected seconds since 1970"):
            client.search(Query(history=HISTORY, features={"time": "2026-01-01"}))


def test_a_sum_over_sessions_is_made_served_and_measured_without_times(
    films: Path, empty_store: Path, tmp_path: Path
) -> None:
    of_sessions = run_of_recipe("last_session", films, empty_store, tmp_path)
    manifest = bundle.read(of_sessions.folder)
    assert not reads_times(manifest)
    retriever = Retriever.load(of_sessions.folder)
    assert retriever.search([example_query(each) for each in manifest.examples], 5)
    with pytest.raises(InvalidInput, match="the query tower reads no times of a history"):
        retriever.encode([Query(history=HISTORY, history_times=TIMES)])
    # The gates measure a champion on the data of its challenger, whose tower may read times.
    data = training_data_of(of_sessions.dataset, of_sessions.experiment.query, of_sessions.experiment.item)
    assert data.histories is not None
    assert data.histories.times is not None
    version = ComparedVersion("1", of_sessions.folder, manifest)
    found, _ = evaluate(version, data, Console(quiet=True))
    assert found.metrics["ndcg_at_10"].mean() == pytest.approx(manifest.quality["ndcg_at_10"], abs=1e-6)
