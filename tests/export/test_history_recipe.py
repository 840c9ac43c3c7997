"""The recipe for histories, from the log to a bundle: attention over events, and a sum over sessions."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from export.release.gate import CandidateVersion
from export.release.gates.quality import _evaluate
from protos import bundle
from protos.errors import InvalidInput
from protos.features import HistoryFeature
from serving.retrieval.query import Query, example_query
from serving.retrieval.retriever import Retriever
from tests.helpers.stdlib import QUICK, Made, make_of
from tests.helpers.watched import ATTENTION, write_toml
from train.data.training_data import training_data_of

pytestmark = pytest.mark.exhaustive

HISTORY = ("f041", "f042", "f043")
TIMES = (1_086_400.0, 1_086_460.0, 1_086_520.0)


@pytest.fixture
def made(films: Path, empty_store: Path, tmp_path: Path) -> Callable[[str], Made]:
    def make(split: str) -> Made:
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
        return make_of(write_toml(films, tmp_path / "a.toml", "recipe", sections), empty_store, tmp_path)

    return make


def reads_times(manifest: bundle.Manifest) -> bool:
    spec = manifest.schema.query["history"]
    assert isinstance(spec, HistoryFeature)
    return spec.times


def test_attention_reads_the_times_of_histories(made: Callable[[str], Made]) -> None:
    of_events = made("last")
    manifest = bundle.read(of_events.folder)
    assert reads_times(manifest)
    retriever = Retriever.load(of_events.folder)
    plain, dated = (Query(history=HISTORY), Query(history=HISTORY, history_times=TIMES))
    first, second = retriever.encode([plain, dated]).vectors
    assert abs(first - second).max() > 1e-4
    assert retriever.search([example_query(each) for each in manifest.examples], 5)


def test_a_sum_over_sessions_is_made_served_and_measured_without_times(made: Callable[[str], Made]) -> None:
    of_sessions = made("last_session")
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
    version = CandidateVersion("1", of_sessions.folder, manifest)
    found = _evaluate(version, data, 1, Console(quiet=True))
    assert found.metrics["ndcg_at_10"].mean() == pytest.approx(manifest.quality["ndcg_at_10"], abs=1e-6)
