"""The recipe for histories, from the log to a bundle, and a bundle that reads when events were."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import QUICK, Made, make_of, shared_made
from tests.helpers.watched import AGES, ATTENTION, write_toml
from twinspire.export.release.gate import ComparedVersion
from twinspire.export.release.paired_metrics import evaluate
from twinspire.protos import bundle
from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import HistoryFeature
from twinspire.serving.__main__ import main
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import Basis
from twinspire.serving.retrieval.query import Query, example_query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
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
    found, _ = evaluate(version, data)
    assert found.metrics["ndcg_at_10"].mean() == pytest.approx(manifest.quality["ndcg_at_10"], abs=1e-6)


WATCHED = ("f001", "f002", "f003")
WATCHED_AT = (1_000_000.0, 1_000_060.0, 1_000_120.0)
LATER = {"time": WATCHED_AT[-1] + 30}
DAY = 86_400.0


@pytest.fixture(scope="module")
def of_ages(films: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("ages")
    small = {"tower": {**AGES["tower"], "layers": 1}, "training": {**AGES["training"], "epochs": 3}}
    sections = {**AGES, **QUICK, **small}
    return make_of(write_toml(films, folder / "a.toml", "ages", sections), empty_store, folder)


@pytest.fixture(scope="module")
def address(of_ages: Made) -> Iterator[str]:
    with RetrievalServer(Retriever.load(of_ages.folder)) as server:
        yield server.address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[RetrievalClient]:
    with RetrievalClient(address, timeout=30) as client:
        yield client


def asked(time: float | None = WATCHED_AT[-1] + 30, times: tuple[float, ...] = WATCHED_AT) -> Query:
    return Query(history=WATCHED, history_times=times, features={} if time is None else {"time": time})


def test_the_graph_takes_the_times_and_the_manifest_says_so(of_ages: Made) -> None:
    manifest = bundle.read(of_ages.folder)
    session = onnxruntime.InferenceSession(of_ages.folder / "query_tower.onnx")
    shapes = {each.name: each.shape for each in session.get_inputs()}
    assert shapes["history"] == shapes["history__times"] == ["batch", "history_length"]
    assert shapes["time"] == ["batch", 1]
    written = json.loads((of_ages.folder / "manifest.json").read_text())
    assert written["schema"]["query"]["history"]["times"] is True
    dated = [example for example in manifest.examples if example["history"]]
    assert all(isinstance(at, float) for example in dated for _, at in example["history"])
    assert max(len(example["history"]) for example in dated) == 20  # no more than is read


def test_times_count_and_what_is_not_known_does_not(client: RetrievalClient) -> None:
    queries = [
        asked(),
        asked(WATCHED_AT[-1] + 30 * DAY),
        asked(times=(WATCHED_AT[0] - 90 * DAY, *WATCHED_AT[1:])),
        asked(times=(math.nan,) * 3),
        Query(history=WATCHED, features=LATER),
        Query(history=WATCHED),
    ]
    vectors = client.encode(queries)
    for one, other in ((0, 1), (0, 2), (0, 5)):
        assert np.abs(vectors[one] - vectors[other]).max() > 1e-3
    for other in (4, 5):  # no age is known
        np.testing.assert_allclose(vectors[3], vectors[other], atol=1e-5)
    answers = client.search_batch(queries, 5, exclude_history=True)
    assert differences([client.search(query, 5, exclude_history=True) for query in queries], answers) == []
    assert not {hit.id for answer in answers for hit in answer.hits} & {*WATCHED}
    unknown = Query(history=("new", *WATCHED), history_times=(5.0, *WATCHED_AT), features=LATER)
    answer = client.search(unknown, 5, exclude_history=True)
    assert answer.unknown_history == 1
    assert differences(answers[:1], [answer]) == []


def test_what_does_not_fit_is_refused_by_name(client: RetrievalClient, films_client: RetrievalClient) -> None:
    for query, field, reason in (
        (asked(times=WATCHED_AT[:2]), "query.history_times", "expected 3, one for each item of the history"),
        (asked(times=(*WATCHED_AT[:2], math.inf)), "query.history_times[2]", "expected seconds since 1970"),
        (Query(history=WATCHED, features={"time": "noon"}), "query.features.time", "expected seconds since"),
    ):
        with pytest.raises(InvalidInput) as caught:
            client.search(query)
        assert (caught.value.field, caught.value.reason[: len(reason)]) == (field, reason)
    expected = r"query\.history_times: the query tower reads no times of a history"
    with pytest.raises(InvalidInput, match=expected):
        films_client.search(Query(history=WATCHED, history_times=WATCHED_AT))


def test_the_command_line_and_a_file_of_queries_take_times(
    address: str, client: RetrievalClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [hit.id for hit in client.search(asked(), 5).hits]
    query = {"history_times": WATCHED_AT, "features": LATER}
    arguments = ["search", "--history", *WATCHED, "--query", json.dumps(query)]
    assert main([*arguments, "--k", "5", "--json", "--address", address]) == 0
    assert [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]] == expected
    queries, answers = tmp_path / "queries.jsonl", tmp_path / "answers.jsonl"
    line = {
        "history": WATCHED,
        "history_times": [*WATCHED_AT[:2], None],
        "features": LATER,
    }
    queries.write_text(json.dumps(line) + "\n")
    assert main(["batch", str(queries), "--output", str(answers), "--k", "5", "--address", address]) == 0
    partly = asked(times=(*WATCHED_AT[:2], math.nan))
    found = json.loads(answers.read_text())["hits"]
    assert [hit["id"] for hit in found] == [hit.id for hit in client.search(partly, 5).hits]
    queries.write_text(json.dumps({**line, "history_times": ["noon"]}) + "\n")
    assert main(["batch", str(queries), "--output", str(answers), "--address", address]) == 1
    assert "row 1: history_times: expected seconds since 1970, got 'noon'" in capsys.readouterr().err
