"""Baselines: rankings that a model is compared with, on the same split and by the same metrics.

Which of them apply follows from the data: BM25, TF-IDF and query popularity read texts, the others
histories.
Their hyperparameters (k1 and b, neighbours, lambda) are chosen on validation, as the epoch of the model is.

To add one, add it to `BASELINES`, and its name to `train/config/baselines.py`; metrics, tables and plots of
a run follow.
"""

from rich.console import Console

from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import (
    ease,
    ease_recent,
    itemknn,
    query_popularity,
    recent_popularity,
    slist,
)
from twinspire.train.evaluation.label_baselines import LABEL_BASELINES, labels_needed
from twinspire.train.evaluation.lexical_choice import has_cut_texts, has_texts, lexical_baseline
from twinspire.train.evaluation.ranking import (
    Baseline,
    BaselineFitter,
    FittedBaseline,
    has_histories,
    most_popular,
)
from twinspire.train.progress import PROGRESS, progress_bar

TEXTS = "texts on both sides"
# In the order of tables and plots.
BASELINES = (
    Baseline("bm25", "BM25", has_texts, lexical_baseline("bm25", cut=True), TEXTS),
    Baseline(
        "bm25_full",
        "BM25, full texts",
        has_cut_texts,
        lexical_baseline("bm25", cut=False),
        f"{TEXTS}, of which one is longer than its max_length",
    ),
    Baseline("tfidf", "TF-IDF", has_texts, lexical_baseline("tfidf", cut=True), TEXTS),
    query_popularity.BASELINE,
    Baseline("popularity", "popularity", has_histories, most_popular, "histories"),
    recent_popularity.BASELINE,
    itemknn.BASELINE,
    slist.BASELINE,
    ease.BASELINE,
    ease.RECENCY,
    ease_recent.BASELINE,
)
LABELS = {
    **{each.name: each.label for each in BASELINES},
    "start": "start",  # the towers before the first step; `train/training/run.py` measures them
    **{each.name: each.label for each in LABEL_BASELINES},  # predict labels and do not rank
}


def left_out(experiment: Experiment, data: TrainingData) -> list[str]:
    """A sentence for each baseline that `[baselines] run` names and that does not apply to the data."""
    run = experiment.baselines.run
    needs = {each.name: each.reads for each in BASELINES if not each.applies(experiment, data)}
    needs |= labels_needed(experiment, data)
    return [f"baselines.run: {name} is not measured: it needs {needs[name]}" for name in needs if name in run]


def baselines(
    experiment: Experiment,
    data: TrainingData,
    console: Console = PROGRESS,
    fitter: BaselineFitter | None = None,
) -> dict[str, FittedBaseline]:
    """Name -> ranking, of each baseline that applies and that `[baselines] run` does not leave out.

    Args:
        fitter: of the same experiment and data; what was computed with it before is not computed again.
    """
    chosen = [each for each in BASELINES if experiment.baselines.measures(each.name)]
    chosen = [each for each in chosen if each.applies(experiment, data)]
    found: dict[str, FittedBaseline] = {}
    if not chosen:
        return found
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("baselines", total=len(chosen), note="")
        fitter = fitter or BaselineFitter(experiment, data)
        fitter.say = lambda text: progress.update(task, note=text)
        for each in chosen:
            progress.update(task, description=each.label, note="")
            found[each.name] = each.fit(fitter)
            progress.advance(task)
    return found
