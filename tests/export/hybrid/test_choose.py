"""A hybrid is shipped where it is better on validation, and its weight is learned there."""

import csv
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.helpers.stdlib import Sections, write_sections
from twinspire.export.hybrid import choose as choosing
from twinspire.export.hybrid.choose import Choice, choose
from twinspire.export.hybrid.postings import over_texts, postings_of
from twinspire.export.hybrid.priors import cross_validated
from twinspire.protos.bundle import Score
from twinspire.protos.errors import DataError, GateRefused
from twinspire.protos.lexical import Analyzer, Weighting
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.bundle import HybridConfig
from twinspire.train.config.index import IndexConfig
from twinspire.train.data.dataset import prepare
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.evaluation import lexical_choice
from twinspire.train.evaluation.intervals import Clusters, Interval, interval
from twinspire.train.evaluation.lexical_model import CountedTerms, LexicalModel
from twinspire.train.evaluation.ranking import BaselineFitter

ITEMS, DIMENSION = 150, 16
COSINE = Score("cosine")
SECTIONS: Sections = {
    "data": {"kind": "files", "items": "items.csv", "pairs": "pairs.csv"},
    "split": {"validation": 0.5, "test": 0.25},
    "query.text": {"kind": "text", "column": "query"},
    "item.text": {"kind": "text", "column": "title"},
    "tower": {"kind": "bag"},
    "loss": {"kind": "in_batch_softmax"},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, TrainingData]:
    """Items of six words each, and queries of two of them."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    words = [f"word{n}" for n in range(120)]
    titles = [rng.choice(words, 6, replace=False) for _ in range(ITEMS)]
    pairs = [(" ".join(rng.choice(titles[n], 2, replace=False)), n) for n in range(ITEMS) for _ in range(2)]
    return made(folder, [(n, " ".join(title)) for n, title in enumerate(titles)], pairs)


def made(folder: Path, items: Any, pairs: Any) -> tuple[Experiment, TrainingData]:
    """The experiment, and the data of numbered titles and of queries with the number of an item."""
    _write(folder / "items.csv", ["item_id", "title"], [(f"i{n}", title) for n, title in items])
    _write(folder / "pairs.csv", ["query", "item_id"], [(query, f"i{n}") for query, n in pairs])
    experiment = read_experiment(write_sections(folder / "shop.toml", "shop", SECTIONS, {}))
    dataset = prepare(experiment, folder, cache=folder / "cache", console=Console(quiet=True))
    return experiment, training_data_of(dataset, experiment.query, experiment.item)


def _write(path: Path, head: list[str], rows: Any) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def chosen(
    shop: tuple[Experiment, TrainingData],
    closeness: float,
    config: HybridConfig | None = None,
    score: Score = COSINE,
    fitter: BaselineFitter | None = None,
) -> Choice:
    """The choice with towers whose query vectors are as close to the right items as `closeness` says."""
    experiment, data = shop
    rng = np.random.default_rng(1)
    items = rng.normal(size=(ITEMS, DIMENSION)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    _, relevant = data.parts["validation"].by_query()
    vectors = np.stack(
        [closeness * items[rows].sum(0) + rng.normal(size=DIMENSION) * 0.3 for rows in relevant]
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    experiment = replace(experiment, hybrid=config or HybridConfig())
    fitter = fitter or BaselineFitter(experiment, data)
    return choose(fitter, 32, items, vectors, score)


def with_queries(shop: tuple[Experiment, TrainingData], count: int) -> tuple[Experiment, TrainingData]:
    """The shop with fewer validation queries."""
    experiment, data = shop
    pairs = data.parts["validation"]
    kept = pairs.where(np.isin(pairs.query, pairs.by_query()[0][:count]))
    return experiment, replace(data, parts={**data.parts, "validation": kept})


def test_words_that_find_what_vectors_miss_are_shipped(shop: tuple[Experiment, TrainingData]) -> None:
    choice = chosen(shop, 0.7)
    report = choice.report
    assert choice.shipped, report["why"]
    assert choice.hybrid is not None and choice.hybrid.weight == report["weight"]
    rows = report["validation"]
    assert rows["hybrid"]["recall_at_10"] > rows["dense"]["recall_at_10"] + 0.05
    assert "against the towers alone" in report["why"]
    assert report["weights"][f"{report['weight']:g}"] > max(report["weights"].values()) - 0.02


def test_what_a_run_has_chosen_for_its_baselines_is_not_chosen_again(
    shop: tuple[Experiment, TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitter = BaselineFitter(*shop)
    usual = chosen(shop, 0.7, fitter=fitter)
    stored = {name: {**asdict(found), "k1": 2.5, "b": 0.25} for name, found in fitter.choices.items()}
    monkeypatch.setattr(lexical_choice, "chosen_settings", None)
    found = chosen(shop, 0.7, fitter=BaselineFitter(*shop, stored=stored))
    assert (usual.report["k1"], usual.report["b"]) != (2.5, 0.25)
    assert (found.report["k1"], found.report["b"]) == (2.5, 0.25)


def test_vectors_that_miss_nothing_stay_alone(shop: tuple[Experiment, TrainingData]) -> None:
    choice = chosen(shop, 50.0)
    assert not choice.shipped
    assert choice.report["why"].startswith("there is no difference beyond chance: ")
    assert choice.ranking is not None  # its figures on test go into the report


@pytest.mark.parametrize(
    ("recall", "mrr", "ships", "why"),
    [
        (
            (0.01, 0.03),
            (0.01, 0.02),
            True,
            "Recall@10 +0.0200 (+0.0100 to +0.0300, 95 % interval, 200 queries",
        ),
        ((0.01, 0.03), (-0.01, 0.02), True, "Recall@10"),
        ((0.01, 0.03), (-0.03, -0.01), False, "it is worse: MRR@10 -0.0200"),
        ((-0.01, 0.012), (-0.01, 0.02), False, "there is no difference beyond chance: Recall@10"),
        ((-0.01, 0.04), (-0.01, 0.02), True, "Recall@10 +0.0150"),
    ],
)
def test_it_is_shipped_if_it_is_better_by_one_metric_and_worse_by_none(
    recall: tuple[float, float], mrr: tuple[float, float], ships: bool, why: str
) -> None:
    differences = {
        name: Interval(sum(ends) / 2, *ends)
        for name, ends in (("recall_at_10", recall), ("ndcg_at_10", (0.0, 0.0)), ("mrr_at_10", mrr))
    }
    decided, text = choosing._verdict(differences, "recall_at_10", Clusters.single(200))
    assert decided is ships
    assert text.lower().startswith(why.lower())
    surely = ships and (recall[0] > 0 or mrr[0] > 0)
    assert choosing._verdict(differences, "recall_at_10", Clusters.single(2000))[0] is surely


@pytest.mark.parametrize(("gain", "ships"), [(0.03, True), (0.003, False)])
def test_where_both_find_nearly_all_items_their_order_decides(gain: float, ships: bool) -> None:
    draw, clusters = np.random.default_rng(0), Clusters.single(400)
    found = draw.random(400) < 0.99  # by both
    dense = np.where(found, draw.uniform(0.3, 0.8, 400), 0)
    hybrid = np.where(found, dense + draw.normal(gain, 0.1, 400), 0)
    differences = {
        "recall_at_10": interval(found.astype(float), clusters, found.astype(float)),
        "ndcg_at_10": interval(hybrid, clusters, dense),
        "mrr_at_10": Interval(0.001, -0.01, 0.012),
    }
    assert found.mean() == pytest.approx(0.99, abs=0.01)
    decided, text = choosing._verdict(differences, "recall_at_10", clusters)
    assert decided is ships, text
    assert text.startswith("nDCG@10 +" if ships else "there is no difference beyond chance: recall@10")


def test_a_weight_is_as_close_to_a_half_as_the_queries_allow() -> None:
    few = {
        0.3: np.array([0.0, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
        0.9: np.array([1.0, 1, 1, 1, 1, 1, 1, 0, 0, 1]),  # .1 below the best, with a standard error of .17
        0.95: np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 0]),
    }
    many = {weight: np.tile(values, 100) for weight, values in few.items()}
    users = Clusters(np.tile(np.arange(10), 100), "users")

    def weight(values: dict[float, Any], clusters: Clusters) -> float:
        return choosing._preferred({("bm25", each): values[each] for each in values}, clusters)[1]

    assert weight(few, Clusters.single(10)) == 0.9
    assert weight(many, Clusters.single(1000)) == 0.95
    assert weight(many, users) == 0.9  # the queries of a user count as one


def test_bm25_is_taken_unless_tfidf_is_better_beyond_an_error() -> None:
    bm25, tfidf = np.tile([1.0, 0, 1, 0, 1], 20), np.tile([1.0, 1, 1, 0, 1], 20)
    curve: Any = {("bm25", 0.3): bm25, ("tfidf", 0.5): tfidf}
    assert choosing._preferred(curve, Clusters.single(100)) == ("tfidf", 0.5)
    assert choosing._preferred(curve, Clusters(np.repeat([0, 1, 1, 1], 25), "users")) == ("tfidf", 0.5)
    few = {setting: values[:5] for setting, values in curve.items()}
    assert choosing._preferred(few, Clusters.single(5)) == ("bm25", 0.3)


def test_a_query_is_measured_by_what_the_other_clusters_prefer() -> None:
    """Each cluster has a weight of its own, which finds all of its queries and none of the others."""
    clusters = Clusters(np.repeat(np.arange(10), 5), "users")
    measured: Any = {
        ("bm25", weight): {"ndcg_at_10": (clusters.of == n).astype(float)}
        for n, weight in enumerate(choosing.WEIGHTS[:10])
    }
    assert measured["bm25", 0.5]["ndcg_at_10"].mean() == 0.1  # of the best weight on all queries
    found = cross_validated(
        measured, "ndcg_at_10", clusters, lambda curve, _: max(curve, key=lambda each: curve[each].mean())
    )
    assert found["ndcg_at_10"].tolist() == [0.0] * 50


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, TrainingData]:
    """Items with a code each, and queries with a part of one: words find nothing."""
    folder, rng = tmp_path_factory.mktemp("codes"), np.random.default_rng(0)
    names = ["".join(rng.choice([*"abcdefghijkl"], 12)) for _ in range(ITEMS)]
    pairs = [(name[at : at + 7], n) for n, name in enumerate(names) for at in (0, 5)]
    return made(folder, [*enumerate(names)], pairs)


def test_parts_of_words_are_found_by_ngrams(codes: tuple[Experiment, TrainingData]) -> None:
    choice = chosen(codes, 0.2)
    assert choice.shipped and choice.hybrid is not None and choice.ranking is not None
    assert (choice.hybrid.scoring, choice.hybrid.analyzer.in_words) == ("tfidf", True)
    assert choice.report["validation"]["lexical"]["recall_at_10"] > 0.9
    assert choice.report["scoring"] == "tfidf"


def test_an_experiment_may_ask_for_it_or_refuse_it(shop: tuple[Experiment, TrainingData]) -> None:
    asked = chosen(shop, 50.0, HybridConfig(True))
    assert asked.shipped
    assert asked.report["why"].startswith(
        "hybrid.enabled is true, although there is no difference beyond chance"
    )
    refused = chosen(shop, 0.7, HybridConfig(False))
    assert refused.report == {"shipped": False, "why": "hybrid.enabled is false"}


def test_with_few_queries_a_hybrid_that_is_asked_for_has_half_the_weight(
    shop: tuple[Experiment, TrainingData],
) -> None:
    choice = chosen(with_queries(shop, 9), 0.7, HybridConfig(True))
    assert choice.shipped and choice.hybrid is not None
    assert choice.hybrid.weight == choice.report["weight"] == 0.5


def test_what_cannot_be_hybrid_says_why(shop: tuple[Experiment, TrainingData]) -> None:
    remote = replace(shop[0], index=IndexConfig(kind="milvus"))
    for choice, why in (
        (chosen((remote, shop[1]), 0.7), "a service has no postings of items that are on another server"),
        (chosen(shop, 0.7, score=Score("inner_product")), "inner_product, not cosines"),
        (chosen(with_queries(shop, 9), 0.7), "9 validation queries of 9 items tell too little, expected 10"),
    ):
        assert (choice.shipped, choice.hybrid) == (False, None)
        assert why in choice.report["why"]
    with pytest.raises(GateRefused, match="inner_product, not cosines"):
        chosen(shop, 0.7, HybridConfig(True), score=Score("inner_product"))


def test_two_words_of_one_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinspire.export.hybrid.postings.term_hash", len)
    model = LexicalModel(CountedTerms(Analyzer(), ["one two", "three"]), Weighting())
    with pytest.raises(DataError, match="have the same hash"):
        postings_of(model)


def clicks(shop: tuple[Experiment, TrainingData], which: str) -> Choice:
    """The choice where the validation queries were asked in training: for their items, for any, or not."""
    experiment, data = shop
    pairs = data.parts["validation"]
    if which == "others":
        pairs = replace(pairs, item=np.random.default_rng(0).permutation(pairs.item))
    train = pairs.where(np.full(len(pairs), which != "none"))
    return chosen((experiment, replace(data, parts={**data.parts, "train": train})), 0.7)


def test_a_prior_that_helps_is_shipped(shop: tuple[Experiment, TrainingData]) -> None:
    choice = clicks(shop, "own")
    assert choice.hybrid is not None and choice.ranking is not None
    assert choice.shipped and choice.hybrid.prior_weight == choice.report["prior_weight"] > 0
    assert choice.report["repeated_share"] == 1.0
    assert choice.report["prior_differences"]["ndcg_at_10"]["low"] > 0
    assert choice.report["validation"]["hybrid"]["ndcg_at_10"] > 0.9
    lowest = [w for w, value in choice.report["prior_weights"].items() if value > 0.9]
    assert choice.hybrid.prior_weight <= float(lowest[-1])


def test_a_prior_ships_without_words_that_do_not_help(
    shop: tuple[Experiment, TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinspire.export.hybrid.choose._verdict", lambda *_: (False, "no difference"))
    choice = clicks(shop, "own")
    assert choice.shipped and choice.hybrid is not None
    assert choice.hybrid.weight == choice.report["weight"] == 0.0 < choice.hybrid.prior_weight
    assert choice.ranking is not None and not choice.ranking.fusion.index.has_words
    postings, _ = over_texts(choice.hybrid, ["word1 word2"] * 3)
    assert (len(postings.terms), postings.count) == (0, 3)  # and the bundle stores none


def test_a_prior_that_does_not_help_is_left_out(shop: tuple[Experiment, TrainingData]) -> None:
    choice, without = clicks(shop, "others"), clicks(shop, "none")
    assert choice.hybrid == without.hybrid and choice.hybrid is not None
    assert choice.hybrid.prior_weight == choice.report["prior_weight"] == 0.0
    assert {key for key in choice.report if key not in without.report} == {
        *("prior_weight", "prior_why", "prior_differences", "prior_weights", "repeated_share")
    }
