"""Three lines of TOML on a BEIR folder: trained on titles, and measured on its questions by every command."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.beir import DOCUMENTS, QUESTIONS, write_papers
from tests.helpers.stdlib import Made, make_of, shared_made, tracking_at
from twinspire.protos import bundle
from twinspire.train.data.training_data import training_data_of
from twinspire.train.evaluation.baselines import baselines
from twinspire.train.metrics import MAIN_AND_RECALL, mean, per_query

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def papers_once(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return shared_made(
        tmp_path_factory, "papers", lambda folder: make_of(write_papers(folder), empty_store, folder)
    )


@pytest.fixture
def papers(papers_once: Made) -> Iterator[Made]:
    with tracking_at(papers_once.uri):
        yield papers_once


def test_the_data_set_has_titles_to_train_on_and_questions_to_judge_by(papers: Made) -> None:
    report = papers.dataset.report
    assert report["items"] == DOCUMENTS + 1
    assert report["pairs"] == DOCUMENTS
    assert report["judged"]["queries"] == QUESTIONS + 1
    assert set(report["judged"]["judgements"]) == {"1", "2", "3"}
    assert report["dropped"]["judged: judgement of a document that is not in the catalogue"] == 1
    assert report["dropped"]["judged: judged query without a relevant document"] == 1


def test_the_run_has_the_figures_of_judged_queries_beside_those_of_titles(papers: Made) -> None:
    metrics = papers.metrics
    names = {name for name in papers.run.data.metrics if name.startswith("judged/")}
    assert names == {
        f"judged/{name}{of}" for name in ("ndcg_at_10", "recall_at_10") for of in ("", "_best_baseline")
    }
    assert {"judged_ndcg_at_10_low", "judged_bm25_recall_at_100"} <= {*metrics}
    served = bundle.read(papers.folder).quality
    assert papers.run.data.metrics["served_judged/ndcg_at_10"] == served["judged_ndcg_at_10"]
    assert metrics["judged_queries"] == QUESTIONS + 1
    data = training_data_of(papers.dataset, papers.experiment.query, papers.experiment.item).as_served()
    assert data.judged is not None
    for name, rank in baselines(papers.experiment, data).items():
        expected = mean(per_query(rank(data.judged.query), data.judged.relevant, data.judged.gains))
        for metric in MAIN_AND_RECALL:
            assert metrics[f"judged_{name}_{metric}"] == pytest.approx(expected[metric])
            assert served[f"judged_{name}_{metric}"] == pytest.approx(expected[metric])
    assert metrics["judged_start_ndcg_at_10"] > 0.2


def test_the_bundle_is_measured_over_what_it_serves(papers: Made) -> None:
    quality, metrics = bundle.read(papers.folder).quality, papers.metrics
    assert quality["judged_ndcg_at_10"] > 0.3
    for metric in MAIN_AND_RECALL:
        assert quality[f"judged_exact_{metric}"] == pytest.approx(metrics[f"judged_{metric}"], abs=0.02)
        assert (
            quality[f"judged_{metric}_low"] <= quality[f"judged_{metric}"] <= quality[f"judged_{metric}_high"]
        )
    assert "nDCG@10" in quality["judged_verdict"]


def test_equal_questions_are_two_topics(papers: Made) -> None:
    data = training_data_of(papers.dataset, papers.experiment.query, papers.experiment.item)
    judged = data.judged
    assert judged is not None
    first, again = (list(judged.ids).index(name) for name in ("q%0", "again"))
    assert judged.query[first] == judged.query[again]
    assert not np.array_equal(judged.relevant[first], judged.relevant[again])
