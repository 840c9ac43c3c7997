"""A bundle that reads when events were, behind a real server: over each way by which a query comes in."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.helpers.answers import differences
from tests.helpers.stdlib import QUICK, Made, make_of
from tests.helpers.watched import AGES, write_toml
from twinspire.protos import bundle
from twinspire.protos.errors import InvalidInput
from twinspire.serving.__main__ import main
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

pytestmark = pytest.mark.exhaustive

HISTORY = ("f001", "f002", "f003")
TIMES = (1_000_000.0, 1_000_060.0, 1_000_120.0)
DAY = 86_400.0


@pytest.fixture(scope="module")
def made(films: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("ages")
    small = {"tower": {**AGES["tower"], "layers": 1}, "training": {**AGES["training"], "epochs": 3}}
    sections = {**AGES, **QUICK, **small}
    return make_of(write_toml(films, folder / "a.toml", "ages", sections), empty_store, folder)


@pytest.fixture(scope="module")
def address(made: Made) -> Iterator[str]:
    with RetrievalServer(Retriever.load(made.folder)) as server:
        yield server.address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[RetrievalClient]:
    with RetrievalClient(address, timeout=30) as client:
        yield client


def asked(time: float | None = TIMES[-1] + 30, times: tuple[float, ...] = TIMES) -> Query:
    return Query(history=HISTORY, history_times=times, features={} if time is None else {"time": time})


def test_the_graph_takes_the_times_and_the_manifest_says_so(made: Made) -> None:
    manifest = bundle.read(made.folder)
    session = onnxruntime.InferenceSession(made.folder / "query_tower.onnx")
    shapes = {each.name: each.shape for each in session.get_inputs()}
    assert shapes["history"] == shapes["history__times"] == ["batch", "history_length"]
    assert shapes["time"] == ["batch", 1]
    written = json.loads((made.folder / "manifest.json").read_text())
    assert written["schema"]["query"]["history"]["times"] is True
    dated = [example for example in manifest.examples if example["history"]]
    assert all(isinstance(at, float) for example in dated for _, at in example["history"])
    assert max(len(example["history"]) for example in dated) == 20  # no more than is read


def test_times_count_and_what_is_not_known_does_not(client: RetrievalClient) -> None:
    queries = [
        asked(),
        asked(TIMES[-1] + 30 * DAY),
        asked(times=(TIMES[0] - 90 * DAY, *TIMES[1:])),
        asked(times=(math.nan,) * 3),
        Query(history=HISTORY, features={"time": TIMES[-1] + 30}),
        Query(history=HISTORY),
    ]
    vectors = client.encode(queries)
    for one, other in ((0, 1), (0, 2), (0, 5)):
        assert np.abs(vectors[one] - vectors[other]).max() > 1e-3
    for other in (4, 5):  # no age is known
        np.testing.assert_allclose(vectors[3], vectors[other], atol=1e-5)
    answers = client.search_batch(queries, 5, exclude_history=True)
    assert differences([client.search(query, 5, exclude_history=True) for query in queries], answers) == []
    assert not {hit.id for answer in answers for hit in answer.hits} & {*HISTORY}
    unknown = Query(history=("new", *HISTORY), history_times=(5.0, *TIMES), features={"time": TIMES[-1] + 30})
    answer = client.search(unknown, 5, exclude_history=True)
    assert answer.unknown_history == 1
    assert differences(answers[:1], [answer]) == []


def test_what_does_not_fit_is_refused_by_name(client: RetrievalClient, films_client: RetrievalClient) -> None:
    for query, field, reason in (
        (asked(times=TIMES[:2]), "query.history_times", "expected 3, one for each item of the history"),
        (asked(times=(*TIMES[:2], math.inf)), "query.history_times[2]", "expected seconds since 1970"),
        (Query(history=HISTORY, features={"time": "noon"}), "query.features.time", "expected seconds since"),
    ):
        with pytest.raises(InvalidInput) as caught:
            client.search(query)
        assert (caught.value.field, caught.value.reason[: len(reason)]) == (field, reason)
    expected = r"query\.history_times: the query tower reads no times of a history"
    with pytest.raises(InvalidInput, match=expected):
        films_client.search(Query(history=HISTORY, history_times=TIMES))


def test_the_command_line_and_a_file_of_queries_take_times(
    address: str, client: RetrievalClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [hit.id for hit in client.search(asked(), 5).hits]
    query = {"history_times": TIMES, "features": {"time": TIMES[-1] + 30}}
    arguments = ["search", "--history", *HISTORY, "--query", json.dumps(query)]
    assert main([*arguments, "--k", "5", "--json", "--address", address]) == 0
    assert [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]] == expected
    queries, answers = tmp_path / "queries.jsonl", tmp_path / "answers.jsonl"
    line = {"history": HISTORY, "history_times": [*TIMES[:2], None], "features": {"time": TIMES[-1] + 30}}
    queries.write_text(json.dumps(line) + "\n")
    assert main(["batch", str(queries), "--output", str(answers), "--k", "5", "--address", address]) == 0
    partly = asked(times=(*TIMES[:2], math.nan))
    found = json.loads(answers.read_text())["hits"]
    assert [hit["id"] for hit in found] == [hit.id for hit in client.search(partly, 5).hits]
    queries.write_text(json.dumps({**line, "history_times": ["noon"]}) + "\n")
    assert main(["batch", str(queries), "--output", str(answers), "--address", address]) == 1
    assert "row 1: history_times: expected seconds since 1970, got 'noon'" in capsys.readouterr().err
