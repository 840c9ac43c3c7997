"""Reasons to doubt the figures of a run, as sentences for its note in MLflow and the terminal."""

from collections.abc import Iterator, Mapping

from twinspire.train.config import Experiment
from twinspire.train.data.splits.assign import LEAST_OTHERS
from twinspire.train.data.training_data import TrainingData, texts_of
from twinspire.train.evaluation.baselines import LABELS, left_out
from twinspire.train.evaluation.intervals import Clusters, Interval
from twinspire.train.evaluation.query_groups import is_trained, query_groups
from twinspire.train.evaluation.ranking import selection_metric
from twinspire.train.metrics import metric_label

FEW_QUERIES = 200  # of as many, a share of .5 has a 95 % interval of .07 to each side
CUT_PART, CUT_TEXTS = 0.1, 0.05  # the part of a text that matters, and the share of the texts that lose it
NO_LOSS = 1e-6  # a mean loss below it counts as zero


def run_warnings(
    experiment: Experiment,
    data: TrainingData,
    metrics: Mapping[str, float],
    best_epoch: int,
    losses: Mapping[int, float],
) -> list[str]:
    """The warnings of a run, one sentence each; empty if there are none.

    Args:
        metrics: of the test part, with those of the baselines.
        best_epoch: whose towers are kept; 0 is the start, before any step.
        losses: epoch -> mean loss of its steps.
    """
    found = [
        *left_out(experiment, data),
        *_of_training(best_epoch, losses),
        *_of_queries(data, int(metrics["queries"])),
        _cut_texts(experiment, data, metrics),
        *_of_data(experiment, data),
        own_impressions(data),
    ]
    return [each for each in found if each]


def worse_than_baselines(
    leads: Mapping[str, Interval], beside: Mapping[str, float], metric: str, drawn: Clusters
) -> list[str]:
    """A sentence that names the best baseline, if the towers have a lower mean on validation.

    Args:
        leads: name of a baseline -> a metric of ranking of the towers less that of the baseline.
        beside: name of a baseline -> that metric.
    """
    best = max(leads, key=beside.__getitem__, default="")
    if not best or leads[best].mean >= 0:
        return []
    lead, value = leads[best], beside[best]
    label = LABELS[best]
    which = f"{label} is better than the towers" if lead.is_worse else f"the towers have {lead.tie} {label}"
    figures = f"{metric_label(metric)} {value:.4f} against {value + lead.mean:.4f}, {lead.text(drawn)}"
    return [f"{which} on validation: {figures}"]


def _of_training(best_epoch: int, losses: Mapping[int, float]) -> Iterator[str]:
    """Where training has learned nothing."""
    if losses and not best_epoch:
        epochs = len(losses)
        yield f"no epoch of {epochs} was better on validation than the start: the untrained towers were kept"
    if without := [epoch for epoch, loss in losses.items() if abs(loss) < NO_LOSS]:
        yield (
            f"the loss was zero in epoch {', '.join(map(str, without))}: nothing was learned there; do the "
            "batches hold more than one item?"
        )


def _of_queries(data: TrainingData, count: int) -> Iterator[str]:
    """How few the test queries are, and how many of these and of the judged ones are in training, too.

    Queries are the same if their words are; histories are not compared.
    """
    if count < FEW_QUERIES:
        yield f"test holds {count} queries: differences of a few hundredths are chance"
    groups = query_groups(data, "test")
    seen, unseen = (int(sum(groups.get(name, ()))) for name in ("seen", "unseen"))
    if seen:
        yield (
            f"{seen:,} of {seen + unseen:,} test queries are also training queries: their figures show in "
            "part what was memorised, those of unseen queries do not"
        )
    if data.judged and (known := int(is_trained(data, data.judged.query).sum())):
        yield (
            f"{known:,} of {len(data.judged.query):,} judged queries are also training queries: judged "
            "figures show in part what was memorised"
        )


def own_impressions(data: TrainingData) -> str:
    """How much of the test part are items that bundles of before have chosen to show; empty of none."""
    if not data.by_ranking:
        return ""
    return (
        f"{data.by_ranking:.0%} of the test pairs are clicks on what a ranking alone has chosen to show, as "
        f"fewer than {LEAST_OTHERS} others would be left for test or validation: items that it did not show "
        "cannot be right, so figures favour models that rank as it did; `serve --explore-share` shows others"
    )


def _cut_texts(experiment: Experiment, data: TrainingData, metrics: Mapping[str, float]) -> str:
    """Texts of which the towers do not read a real part, if they are many, and what it is worth to BM25."""
    if data.histories is not None:
        return ""
    shares = []
    sides = {"items": (data.items, experiment.item), "queries": (data.queries, experiment.query)}
    for side, (values, features) in sides.items():
        whole = texts_of(values, features)
        read = texts_of(values, features, cut=True, folder=experiment.tower.features_folder)
        lost = [1 - len(b) / len(a) for a, b in zip(whole, read, strict=True) if len(b) < len(a)]
        lost = [part for part in lost if part > CUT_PART]
        if lost and len(lost) >= CUT_TEXTS * len(whole):
            share, mean = len(lost) / len(whole), sum(lost) / len(lost)
            shares.append(f"{share:.1%} of the {side} lose their end, on average {mean:.0%} of a text")
    if not shares:
        return ""
    text = f"texts are cut at max_length: {'; '.join(shares)}"
    metric = selection_metric(experiment)
    if f"bm25_full_{metric}" not in metrics or f"bm25_{metric}" not in metrics:
        return text  # `[baselines] run` may name one of them, or none
    full, read_only = metrics[f"bm25_full_{metric}"], metrics[f"bm25_{metric}"]
    return f"{text}; on whole texts BM25 has {metric_label(metric)} {full:.3f}, on cut ones {read_only:.3f}"


def _of_data(experiment: Experiment, data: TrainingData) -> Iterator[str]:
    """Negative pairs that the loss leaves out, and an order of events that may say nothing."""
    pairs, loss = data.parts["train"], experiment.loss
    negatives = int((~pairs.is_positive).sum())
    if negatives and loss.kind != "bce":
        yield (
            f"{negatives:,} of {len(pairs):,} training pairs are negative, and the loss {loss.kind} leaves "
            'them out; kind = "bce" learns from them'
        )
    by = experiment.split.by
    if data.histories is not None and data.moments is None and by in ("last", "last_session"):
        what = "event" if by == "last" else "session"
        yield (
            f'there is no time column: split.by = "{by}" tests the last {what} of each user in the order of '
            'the file; if that order says nothing, split.by = "random" draws an event of each user'
        )
