"""The reference for drift: which queries and answers it has, and what a refit leaves of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export.evaluation.drift_reference import learn, refreshed
from twinspire.export.evaluation.quality import ServedModel
from twinspire.export.served_traffic.drift import compare
from twinspire.protos.bundle import Score
from twinspire.protos.drift import DriftReference, query_measures
from twinspire.protos.features import FeatureSpec, HistoryFeature, Schema, TextFeature
from twinspire.train.data.training_data import Pairs, TrainingData

QUERY: dict[str, FeatureSpec] = {
    "text": TextFeature("text", "query", 40),
    "history": HistoryFeature("history", 3),
}
SCHEMA = Schema(QUERY, {"text": TextFeature("text", "text", 40)}, {"items": ("i0", "i1")})
COUNT = 300  # queries, the first of which the tower does not know
VECTORS = np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32)
VECTORS[0] = 0
QUERIES: dict[str, list[Any]] = {
    "text": [f"word{n}" for n in range(COUNT)],
    "history": [["i0", "new"]] * COUNT,
}
ITEMS = {"text": [f"item{n}" for n in range(20)]}


def pairs(queries: npt.ArrayLike, user: npt.ArrayLike | None = None) -> Pairs:
    rows = np.asarray(queries, np.int64)
    users = None if user is None else np.asarray(user, np.int64)
    return Pairs(rows, rows % 20, np.ones(len(rows), np.float32), user=users)


def learned(validation: Pairs, is_refitted: bool = False) -> DriftReference:
    """The reference for some validation pairs; training has had queries 0 to 19."""
    parts = {"train": pairs(range(20)), "validation": validation}
    data = TrainingData(QUERIES, ITEMS, parts, COUNT, 20)
    data = data.with_validation() if is_refitted else data

    def blank(arrays: Any) -> npt.NDArray[Any]:
        return np.zeros((len(next(iter(arrays.values()))), 8), np.float32)

    model = ServedModel(blank, SCHEMA.side("query"), VECTORS[:20] + 1)
    rows, _ = validation.by_query()
    return learn(data, SCHEMA, model, VECTORS[rows], ITEMS, Score("cosine"), None)


def columns(reference: DriftReference) -> dict[str, list[float]]:
    """Name -> values of the measures of the reference's queries."""
    names = ("text.length", "text.unknown_words", "history.length", "history.unknown_items")
    return dict(zip(names, reference.queries.T.tolist(), strict=False))


def test_a_refit_leaves_no_answers_and_no_unknown_items_and_the_words_of_training_before() -> None:
    validation = pairs(range(20, COUNT))
    whole, refitted = learned(validation), learned(validation, is_refitted=True)
    assert len(whole.answers) == COUNT - 20
    assert {*columns(whole)["history.unknown_items"]} == {0.5}
    assert np.mean(columns(whole)["text.unknown_words"]) > 0.8
    assert columns(refitted)["text.unknown_words"] == columns(whole)["text.unknown_words"]
    assert refitted.answers.shape == (0, 3)
    assert np.isnan(columns(refitted)["history.unknown_items"]).all()
    of = query_measures(SCHEMA.side("query"), refitted)
    window = [
        {
            **{"request_id": f"{n}", "user": None, "comparable": True, "weak": False},
            **{"item_ids": ["a"], "scores": [0.5]},
            "measures": of({name: values[n] for name, values in QUERIES.items()}, VECTORS[n]),
        }
        for n in range(20, COUNT)
    ]
    features, _, why = compare(refitted, SCHEMA, window, {})
    assert not why
    assert not [each["name"] for each in features if each["drifted"]]
    names = {each["name"] for each in features}
    assert "text.unknown_words" in names and "vectors" in names
    assert not {name for name in names if name.endswith("unknown_items") or name.startswith("answer")}
    told = {each["name"] for each in compare(whole, SCHEMA, window, {})[0]}
    assert {"history.unknown_items", "answer.score"} <= told


def test_each_user_has_one_query() -> None:
    """A user of many events would count many times, and a window has one query of each."""
    users = [0] * 150 + [*range(1, 131)]
    reference = learned(pairs(range(20, COUNT), users))
    assert len(reference.queries) == len(reference.answers) == 131
    assert len(learned(pairs(range(20, COUNT))).queries) == COUNT - 20


def test_answers_to_queries_that_the_tower_does_not_know_are_left_out() -> None:
    reference = learned(pairs(range(40)))
    assert (len(reference.queries), len(reference.answers)) == (40, 39)
    assert learned(pairs([0])).answers.shape == (0, 3)


def test_a_catalogue_of_which_no_sample_is_left_is_not_compared() -> None:
    made = replace(learned(pairs(range(40))), rows=np.arange(5), served=np.ones((5, 1), np.float32))
    cut = refreshed(made, SCHEMA, 20, np.arange(5, 20), {"text": []})
    assert (len(cut.rows), cut.served.shape) == (0, (0, 1))
    assert not compare(cut, SCHEMA, [], {})[0]
    fresh = {"text": [f"a longer text {n}" for n in range(12)]}
    anew = refreshed(cut, SCHEMA, 15, np.full(12, -1), fresh)
    assert anew.rows.tolist() == [*range(12)]
    assert [each["name"] for each in compare(anew, SCHEMA, [], {})[0]] == ["catalogue.text.length"]
