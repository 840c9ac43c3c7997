"""Training-serving skew: over gRPC every test user gets the items that evaluation ranked."""

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from tests.helpers.answers import hits_of
from tests.helpers.scores import difference
from tests.helpers.stdlib import Made
from twinspire.export import ann
from twinspire.export.evaluation.quality import K, encode_queries
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.protos import bundle
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import Answer
from twinspire.serving.retrieval.query import Query, example_query
from twinspire.train.data.training_data import TrainingData, training_data_of


@pytest.fixture(scope="module")
def data(films_made: Made) -> TrainingData:
    return training_data_of(films_made.dataset, films_made.experiment.query, films_made.experiment.item)


@pytest.fixture(scope="module")
def manifest(films_made: Made) -> bundle.Manifest:
    return bundle.read(films_made.folder)


@pytest.fixture(scope="module")
def vectors(films_made: Made) -> ann.Vectors:
    """Of the items."""
    loaded: ann.Vectors = np.load(films_made.folder / bundle.VECTORS)
    return loaded


@pytest.fixture(scope="module")
def queries(films_made: Made, data: TrainingData, manifest: bundle.Manifest) -> ann.Vectors:
    """Of the test users, as evaluation encodes them."""
    encode = onnx_encoder(films_made.folder / bundle.QUERY_TOWER)
    inputs = manifest.schema.side("query")
    return encode_queries(encode, inputs, data, rows_of(data), Console(quiet=True), "queries")


def rows_of(data: TrainingData) -> npt.NDArray[np.int64]:
    return data.parts["test"].by_query()[0]


def asked(data: TrainingData) -> list[Query]:
    """The test users as a client asks for them: the whole history, and where they are."""
    return [
        example_query({name: values[row] for name, values in data.queries.items()}) for row in rows_of(data)
    ]


def served(client: RetrievalClient, data: TrainingData, k: int, one_by_one: bool) -> list[Answer]:
    """The service's answers to the test users."""
    questions = asked(data)
    if one_by_one:
        return [client.search(query, k, exclude_history=True) for query in questions]
    answers: list[Answer] = []
    for at in range(0, len(questions), 100):
        answers += client.search_batch(questions[at : at + 100], k, exclude_history=True)
    return answers


def rows_in(answers: list[Answer], data: TrainingData, k: int) -> npt.NDArray[np.int64]:
    """(Q, k) item rows, -1 where there are no more."""
    row_of = {item: row for row, item in enumerate(data.item_ids)}
    found = np.full((len(answers), k), -1)
    for row, answer in zip(found, answers, strict=True):
        row[: len(answer.hits)] = [row_of[hit.id] for hit in answer.hits]
    return found


@pytest.mark.parametrize("one_by_one", [True, False], ids=["alone", "in batches"])
def test_the_service_ranks_as_the_evaluation_does(
    films_client: RetrievalClient,
    data: TrainingData,
    queries: ann.Vectors,
    vectors: ann.Vectors,
    one_by_one: bool,
) -> None:
    seen = data.seen(rows_of(data))
    assert len(queries) == 300
    assert min(map(len, seen)) > 0
    expected = ann.exact(queries, vectors, K, seen)
    answers = served(films_client, data, K, one_by_one)
    for query, best, answer in zip(queries, expected, answers, strict=True):
        rows = best[best >= 0]
        ids = [data.item_ids[row] for row in rows]
        ranked = [*zip(ids, (vectors[rows] @ query).tolist(), strict=True)]
        assert difference(ranked, hits_of(answer)) == ""
    found = rows_in(answers, data, K)
    assert all(not set(row) & set(known.tolist()) for row, known in zip(found.tolist(), seen, strict=True))
