"""The most clicked items of the same query text, before or among those of a text ranking."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.train.evaluation.test_baselines import data_of, experiment_with
from tests.train.evaluation.test_report import pairs_of
from twinspire.protos.inputs.query_words import word_numbers
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import baselines, query_popularity
from twinspire.train.evaluation.baselines.query_popularity import QuerySettings
from twinspire.train.evaluation.lexical_choice import fitted
from twinspire.train.evaluation.ranking import BaselineFitter
from twinspire.train.metrics import per_query

QUERY_POPULARITY = "query_popularity"
ITEMS = ["red shoe", "shoe", "blue shoe of a long name", "sandal", "hat"]


def clicked(*clicks: tuple[str, int]) -> TrainingData:
    """Training clicks of query texts, and one query of validation and test, `shoe`."""
    texts = [*(text for text, _ in clicks), "shoe"]
    data = data_of(ITEMS, texts, [0] * len(texts))
    last = pairs_of([len(clicks)], [0])
    train = pairs_of([*range(len(clicks))], [item for _, item in clicks])
    parts = {**data.parts, "train": train, "validation": last, "test": last}
    return replace(data, parts=parts, query_words=word_numbers(texts))


def ranked(data: TrainingData) -> list[int]:
    found = baselines(experiment_with(), data)[QUERY_POPULARITY]
    return [row for row in found(np.array([data.query_count - 1]))[0].tolist() if row >= 0]


def test_clicked_items_come_first_by_clicks_and_all_others_by_bm25() -> None:
    data = clicked(("shoe", 3), ("shoe", 3), ("  SHOE ", 2), ("ｓｈｏｅ", 2), ("shoe", 2), ("hat", 4))
    assert ranked(data) == [2, 3, 1, 0]  # the sandal shares no word, and the hat was another query's


def test_equal_clicks_are_ranked_by_bm25() -> None:
    data = clicked(("shoe", 4), ("shoe", 3), ("shoe", 2), ("shoe", 1))
    assert ranked(data) == [1, 2, 3, 4, 0]


def test_a_click_counts_by_its_weight() -> None:
    data = clicked(("shoe", 3), ("shoe", 3), ("shoe", 4), ("shoe", 2))
    weight = np.array([0.2, 0.2, 0.5, 0], np.float32)
    train = replace(data.parts["train"], weight=weight)
    assert ranked(replace(data, parts={**data.parts, "train": train})) == [4, 3, 1, 0, 2]


def test_negative_impressions_are_no_clicks() -> None:
    data = clicked(("shoe", 3), ("shoe", 4))
    train = replace(data.parts["train"], label=np.array([0, 1], np.float32))
    assert ranked(replace(data, parts={**data.parts, "train": train}))[:2] == [4, 1]


def test_what_is_chosen_reads_texts_without_held_out_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where items are served with other texts, validation queries may stand in them."""
    data = clicked(("shoe", 3), ("red", 1))
    served = replace(data, items={**data.items, "text": ["shoe"] * len(ITEMS)}, chosen_with=data.items)
    read: list[list[str]] = []
    clicks = query_popularity._QueryClicks

    class Watched(clicks):  # type: ignore[misc, valid-type]
        def __init__(self, fitter: BaselineFitter, fallback: str) -> None:
            read.append(list(fitter.data.items["text"]))
            super().__init__(fitter, fallback)

    monkeypatch.setattr(query_popularity, "_QueryClicks", Watched)
    baselines(experiment_with(), served)
    assert read[:2] == [ITEMS, ITEMS]
    assert read[-1] == ["shoe"] * len(ITEMS)


@pytest.mark.parametrize("clicks", [2, 3])
def test_clicks_are_smoothed_by_text_scores_and_the_clicks_of_each_item(clicks: int) -> None:
    """Of items that few click after the query, one that suits the text or is popular may come first."""
    data = clicked(*[("shoe", 3)] * clicks, ("shoe", 4), ("red", 0), ("red", 0), ("red", 0))
    settings = QuerySettings("tfidf", weight=2.0, power=2.0, popularity=0.5)
    fitter = BaselineFitter(experiment_with(), data, choices={"query popularity": settings})
    text = fitted(fitter, "tfidf", cut=True)
    rows, scores = text.model.best(["shoe"], len(ITEMS))
    prior = np.zeros(len(ITEMS))
    prior[rows[rows >= 0]] = scores[rows >= 0].astype(np.float64) ** 2
    prior *= np.sqrt(data.counts() + 1)
    total = 2.0 * prior / prior.sum() + [0, 0, 0, clicks, 1]
    expected = [row for row in np.argsort(-total, kind="stable").tolist() if total[row]]
    baseline = query_popularity.BASELINE.fit(fitter)
    assert baseline.settings == vars(settings)
    found = baseline(np.array([data.query_count - 1]))[0]
    assert found[found >= 0].tolist() == expected
    assert expected.index(1) < expected.index(4)  # item 1 has no click after this query


def test_it_is_left_out_where_no_query_text_of_validation_or_test_was_in_training() -> None:
    data = clicked(("shoes", 3), ("hat", 4))
    assert QUERY_POPULARITY not in baselines(experiment_with(), data)
    assert QUERY_POPULARITY not in baselines(experiment_with(), data.with_validation())  # by a refit


def test_validation_chooses_the_text_ranking_behind_the_clicks() -> None:
    """Of words without their last letter BM25 knows nothing."""
    words = ["".join(letters) for letters in product("bdf", "aeiou", "klm", "aeiou", "ng")][::9]
    data = data_of(words, [*(word[:-1] for word in words), words[0]], [*range(len(words)), 0])
    known = pairs_of([len(words)], [0])
    data = replace(data, parts={**data.parts, "train": known}, query_words=word_numbers(data.queries["text"]))
    found = baselines(experiment_with(), data)[QUERY_POPULARITY]
    assert found.settings["fallback"] == "tfidf"
    queries, relevant = data.parts["test"].by_query()
    assert per_query(found(queries), relevant)["ndcg_at_10"].mean() > 0.9


def test_validation_chooses_to_smooth_clicks() -> None:
    """One click after a query says less than many after other queries on another item of the same words."""
    nouns = range(40)
    items = [f"noun{noun} style{style}" for noun in nouns for style in range(3)]
    asked = [(f"noun{noun}", 3 * noun) for noun in nouns]
    asked += [(f"style1 noun{noun}", 3 * noun + 1) for noun in nouns for _ in range(5)]
    texts, clicks = zip(*asked, strict=True)
    data = data_of(items, texts, clicks)
    train, later = data.parts["test"], pairs_of([*nouns], [3 * noun + 1 for noun in nouns])
    parts = {**data.parts, "train": train, "validation": later, "test": later}
    data = replace(data, parts=parts, query_words=word_numbers(texts))
    fitter = BaselineFitter(experiment_with(), data)
    assert query_popularity.BASELINE.fit(fitter)(np.arange(40))[:, 0].tolist() == later.item.tolist()
    choices = {"query popularity": QuerySettings()}
    before = query_popularity.BASELINE.fit(BaselineFitter(experiment_with(), data, choices=choices))
    assert before(np.arange(40))[:, 0].tolist() == [3 * noun for noun in nouns]
