"""Recommendation end to end, and the items of evaluation over gRPC for every test user."""

import json
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.answers import hits_of
from tests.helpers.scores import difference
from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import QUICK, Made, make_of, tracking_copy
from tests.helpers.watched import ASKED, COLD, write_toml
from twinspire.export import ann
from twinspire.export.evaluation.quality import K, encode_queries
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.export.release import registry
from twinspire.protos import bundle
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import Answer, Basis
from twinspire.serving.retrieval.query import Query, example_query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.data.training_data import TrainingData, training_data_of

HISTORY = ("f001", "f002", "f003")


def test_a_bundle_has_popularity_and_the_kind_of_score(films_made: Made) -> None:
    manifest = bundle.read(films_made.folder)
    assert manifest.score == bundle.Score("inner_product")
    assert manifest.schema.vocabularies.keys() == {"items", "query.country", "item.genre"}
    items = json.loads((films_made.folder / bundle.ITEMS).read_text())
    assert items["ids"] == films_made.dataset.items["item_id"].to_list()
    train = films_made.dataset.part("train")["item_row"].to_numpy()
    shares = np.bincount(train, minlength=len(items["ids"])) / len(train)
    assert items["popularity"] == pytest.approx(shares.tolist())
    assert sum(items["popularity"]) == pytest.approx(1)
    assert {*items["fields"]} == {"title", "genre"}
    assert np.linalg.norm(np.load(films_made.folder / bundle.VECTORS), axis=1) == pytest.approx(1, abs=1e-5)
    assert manifest.dataset["events"] == {"types": {}, "has_label": False}
    assert {*manifest.examples[0]} == {"history", "country"}
    assert max(len(example["history"]) for example in manifest.examples) == 20  # no more than is read


def test_a_history_finds_the_next_item(films_client: RetrievalClient) -> None:
    answer = films_client.search(Query(history=("f041", "f042", "f043")), 5, exclude_history=True)
    assert answer.basis is Basis.QUERY
    assert "f044" in [hit.id for hit in answer.hits]
    assert answer.hits[0].fields["genre"] == "Crime"


def test_unknown_items_and_context_do_not_determine_the_answer(
    films_client: RetrievalClient, films_made: Made
) -> None:
    items = json.loads((films_made.folder / bundle.ITEMS).read_text())
    share = dict(zip(items["ids"], items["popularity"], strict=True))
    popular = sorted(share, key=lambda each: -share[each])
    for query in (Query(), Query(history=("unknown-1", "unknown-2")), Query(features={"country": "nowhere"})):
        answer = films_client.search(query, 10)
        assert answer.basis is Basis.POPULAR
        assert [hit.id for hit in answer.hits] == popular[:10]
        assert [hit.score for hit in answer.hits] == pytest.approx([share[each] for each in popular[:10]])
    answers = [films_client.search(Query(features={"country": each}), 10) for each in ("de", "fr")]
    assert [answer.basis for answer in answers] == [Basis.CONTEXT] * 2
    assert answers[0].hits != answers[1].hits
    lost = films_client.search(Query(history=("unknown-1", *HISTORY)), 10)
    assert (lost.basis, lost.unknown_history) == (Basis.QUERY, 1)
    # Equal bits: both are batches of one with the same inputs, in the same server.
    assert lost.hits == films_client.search(Query(history=HISTORY), 10).hits


def test_the_registry_gives_the_same_answers(
    films_made: Made, films_client: RetrievalClient, tmp_path: Path
) -> None:
    with tracking_copy(films_made, tmp_path), warnings.catch_warnings(record=True):  # lifted by MLflow
        version, _ = registry.register(films_made.folder)
        model = mlflow.pyfunc.load_model(f"models:/watched/{version.version}")
        record = {"history": list(HISTORY)}
        without, full = (
            model.predict([record], params={"k": 5, "exclude_history": exclude})[0]
            for exclude in (True, False)
        )
        (ten,) = model.predict([record])
        assert not {hit["id"] for hit in ten} & {*HISTORY}  # as the bundle was evaluated
        (context,) = model.predict([{"country": "de", "history": None}], params={"k": 5})
    query = Query(history=HISTORY)
    for found, expected in (
        (without, films_client.search(query, 5, exclude_history=True)),
        (full, films_client.search(query, 5, exclude_history=False)),
        (ten, films_client.search(query, 10)),
        (context, films_client.search(Query(features={"country": "de"}), 5)),
    ):
        assert [hit["id"] for hit in found] == [hit.id for hit in expected.hits]
        assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected.hits])
    assert not {hit["id"] for hit in without} & {*HISTORY}
    assert {hit["id"] for hit in full} & {*HISTORY}


@pytest.mark.exhaustive
def test_new_items_are_placed_by_content_and_served(films: Path, empty_store: Path, tmp_path: Path) -> None:
    made = make_of(write_toml(films, tmp_path / "a.toml", "cold", {**COLD, **QUICK}), empty_store, tmp_path)
    manifest = bundle.read(made.folder)
    quality, logged = manifest.quality, made.metrics
    assert manifest.dataset["cold_items"] == 12
    assert quality["cold_queries"] == logged["cold_queries"] > 100
    for name in ("cold_hr_at_50", "cold_ndcg_at_10", "cold_random_hr_at_50"):
        assert quality[name] == pytest.approx(logged[name], abs=0.01)
    assert quality["cold_hr_at_50"] > quality["cold_random_hr_at_50"] + 0.1
    cold = {made.dataset.items["item_id"][row] for row in made.dataset.part("cold")["item_row"].unique()}
    assert not cold & {*manifest.schema.vocabularies["items"]}
    assert np.linalg.norm(np.load(made.folder / bundle.VECTORS), axis=1) == pytest.approx(1, abs=1e-5)
    retriever = Retriever.load(made.folder)
    (everything,) = retriever.search([Query(history=HISTORY)], 120, exclude_history=False)
    assert {hit.id for hit in everything.hits} == {*made.dataset.items["item_id"]}
    first = sorted(cold)[0]
    (alike,) = retriever.search([Query(item_id=first)], 10)
    assert len(alike.hits) == 10
    (unknown,) = retriever.search([Query(history=(first, *HISTORY))], 120, exclude_history=True)
    assert unknown.unknown_history == len({first, *HISTORY} & cold)
    assert not {hit.id for hit in unknown.hits} & {first, *HISTORY}


@pytest.mark.exhaustive
def test_text_and_history_work_together_and_alone(films: Path, empty_store: Path, tmp_path: Path) -> None:
    made = make_of(write_toml(films, tmp_path / "a.toml", "asked", {**ASKED, **QUICK}), empty_store, tmp_path)
    manifest = bundle.read(made.folder)
    assert manifest.score == bundle.Score("cosine")
    assert {*manifest.schema.query} == {"text", "history", "country"}
    assert manifest.quality["ndcg_at_10"] > manifest.quality["popularity_ndcg_at_10"] + 0.1
    text = "western"
    with client_of(made.folder) as client:
        both, words, watched, neither = client.search_batch(
            [Query(text, HISTORY), Query(text), Query(history=HISTORY), Query()]
        )
        vectors: Any = client.encode([Query(text, HISTORY), Query(text), Query("", HISTORY)])
        (missing,) = client.encode([Query(history=HISTORY)])
    assert [each.basis for each in (both, watched)] == [Basis.QUERY] * 2
    assert (words.basis, neither.basis) == (Basis.CONTEXT, Basis.POPULAR)
    genres = [[hit.fields["genre"] for hit in each.hits] for each in (both, words, watched)]
    assert genres[1].count("Western") > genres[2].count("Western")
    assert genres[2].count("Animation") > genres[1].count("Animation")
    assert both.hits != words.hits
    assert both.hits != watched.hits
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(vectors[2], missing, atol=1e-6)


@pytest.fixture(scope="module")
def data(films_made: Made) -> TrainingData:
    return training_data_of(films_made.dataset, films_made.experiment.query, films_made.experiment.item)


@pytest.fixture(scope="module")
def manifest(films_made: Made) -> bundle.Manifest:
    return bundle.read(films_made.folder)


@pytest.fixture(scope="module")
def vectors(films_made: Made) -> ann.Vectors:
    loaded: ann.Vectors = np.load(films_made.folder / bundle.VECTORS)
    return loaded


@pytest.fixture(scope="module")
def queries(films_made: Made, data: TrainingData, manifest: bundle.Manifest) -> ann.Vectors:
    """Of the test users, as evaluation encodes them."""
    encode = onnx_encoder(films_made.folder / bundle.QUERY_TOWER)
    inputs = manifest.schema.side("query")
    return encode_queries(encode, inputs, data, rows_of(data), "queries")


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
