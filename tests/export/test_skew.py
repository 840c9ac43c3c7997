"""What is served is what was measured: every test user, asked over gRPC, gets what evaluation ranked."""

from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from export import index
from export.backends import onnx_encoder
from export.quality import K, encode_queries
from protos import bundle
from protos.scores import difference
from serving.answer import Answer
from serving.client import RetrievalClient
from serving.query import Query, example_query
from tests.answers import hits_of
from tests.stdlib import Made
from train.metrics import mean, per_query
from train.problem import Problem, problem_of


@pytest.fixture(scope="module")
def problem(films_made: Made) -> Problem:
    return problem_of(films_made.dataset, films_made.experiment.query, films_made.experiment.item)


@pytest.fixture(scope="module")
def manifest(films_made: Made) -> bundle.Manifest:
    return bundle.read(films_made.folder)


@pytest.fixture(scope="module")
def vectors(films_made: Made) -> index.Vectors:
    """Of the items."""
    loaded: index.Vectors = np.load(films_made.folder / bundle.VECTORS)
    return loaded


@pytest.fixture(scope="module")
def queries(films_made: Made, problem: Problem, manifest: bundle.Manifest) -> index.Vectors:
    """Of the test users, as evaluation encodes them."""
    encode = onnx_encoder(films_made.folder / bundle.QUERY_TOWER)
    inputs = manifest.schema.side("query")
    return encode_queries(encode, inputs, problem, rows_of(problem), Console(quiet=True), "queries")


def rows_of(problem: Problem) -> npt.NDArray[np.int64]:
    return problem.parts["test"].by_query()[0]


def asked(problem: Problem) -> list[Query]:
    """The test users as a client asks for them: the whole history, and where they are."""
    return [
        example_query({name: values[row] for name, values in problem.queries.items()})
        for row in rows_of(problem)
    ]


def served(client: RetrievalClient, problem: Problem, k: int, one_by_one: bool) -> list[Answer]:
    """The service's answers to the test users."""
    questions = asked(problem)
    if one_by_one:
        return [client.search(query, k, exclude_history=True) for query in questions]
    answers: list[Answer] = []
    for at in range(0, len(questions), 100):
        answers += client.search_batch(questions[at : at + 100], k, exclude_history=True)
    return answers


def rows_in(answers: list[Answer], problem: Problem, k: int) -> npt.NDArray[np.int64]:
    """(Q, k) item rows, -1 where there are no more."""
    row_of = {item: row for row, item in enumerate(problem.item_ids)}
    found = np.full((len(answers), k), -1)
    for row, answer in zip(found, answers, strict=True):
        row[: len(answer.hits)] = [row_of[hit.id] for hit in answer.hits]
    return found


@pytest.mark.parametrize("one_by_one", [True, False], ids=["alone", "in batches"])
def test_the_service_ranks_as_the_evaluation_does(
    films_client: RetrievalClient,
    problem: Problem,
    queries: index.Vectors,
    vectors: index.Vectors,
    one_by_one: bool,
) -> None:
    seen = problem.seen(rows_of(problem))
    assert len(queries) == 300
    assert min(map(len, seen)) > 0
    expected = index.exact(queries, vectors, K, seen)
    answers = served(films_client, problem, K, one_by_one)
    for query, best, answer in zip(queries, expected, answers, strict=True):
        rows = best[best >= 0]
        ids = [problem.item_ids[row] for row in rows]
        ranked = [*zip(ids, (vectors[rows] @ query).tolist(), strict=True)]
        assert difference(ranked, hits_of(answer)) == ""
    found = rows_in(answers, problem, K)
    assert all(not set(row) & set(known.tolist()) for row, known in zip(found.tolist(), seen, strict=True))


def test_the_figures_of_the_manifest_are_those_of_the_service(
    films_client: RetrievalClient, problem: Problem, manifest: bundle.Manifest
) -> None:
    _, relevant = problem.parts["test"].by_query()
    answers = served(films_client, problem, K, one_by_one=True)
    figures = mean(per_query(rows_in(answers, problem, K), relevant))
    for name, value in figures.items():
        assert value == pytest.approx(manifest.quality[f"exact_{name}"], abs=1 / 300)
    assert figures["hr_at_10"] > 0.3  # of which there is something to lose


def test_the_graph_finds_unseen_items_as_well_as_it_was_measured_to(
    films_made: Made,
    problem: Problem,
    queries: index.Vectors,
    vectors: index.Vectors,
    manifest: bundle.Manifest,
) -> None:
    graph = hnswlib.Index(manifest.index.space, manifest.dimension)
    graph.load_index(str(films_made.folder / bundle.INDEX))
    seen = problem.seen(rows_of(problem))
    expected = index.exact(queries, vectors, 10, seen)
    shared = []
    for n, best in enumerate(expected.tolist()):
        reach = 10 + len(seen[n])
        found = index.approximate(graph, queries[n : n + 1], reach, manifest.index.ef_search)[0]
        kept = [row for row in found.tolist() if row not in {*seen[n].tolist()}][:10]
        shared.append(len({*kept} & {*best}))
    recall: Any = manifest.ann["ann_recall_at_10"]
    assert np.mean(shared) / 10 >= recall - 0.005
    assert recall >= manifest.ann["target"]
