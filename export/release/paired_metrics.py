"""The metrics of challenger and champion on the same test queries, and on the same labelled test pairs.

Each bundle holds its own. If both are of the same rows and the same split, they are compared directly.
Otherwise both bundles are evaluated again on the challenger's data.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from twinspire.export.bundles import why_not_comparable
from twinspire.export.evaluation import pair_losses, per_query, quality
from twinspire.export.evaluation.pair_losses import LOG_LOSS
from twinspire.export.evaluation.per_query import PAIRS, QUERIES, RowFile, RowMetrics
from twinspire.export.release.gate import ComparedVersion, Comparison
from twinspire.export.served_model import served_model
from twinspire.protos import bundle
from twinspire.protos.errors import DataError
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.intervals import Interval, interval
from twinspire.train.evaluation.labelled_metrics import HIGHEST
from twinspire.train.evaluation.warnings import own_impressions
from twinspire.train.metrics import OF_LABELS, WITH_INTERVAL


@dataclass(frozen=True)
class Paired:
    """The metrics of the same rows by one or both bundles.

    Args:
        left_out: rows of the champion alone, since a refresh does not measure deleted and edited items.
    """

    challenger: RowMetrics
    champion: RowMetrics | None = None
    left_out: int = 0

    @property
    def sides(self) -> dict[str, RowMetrics]:
        """`challenger` and, if there is one, `champion`."""
        found = {"challenger": self.challenger}
        return found if self.champion is None else {**found, "champion": self.champion}

    def intervals(self, seed: int) -> dict[str, dict[str, float]]:
        """The sides -> the main means with their ends, `<metric>_low` and `<metric>_high`."""
        return {
            side: {
                key: value
                for name in (LOG_LOSS, *WITH_INTERVAL)
                if name in found.means()
                for key, value in _interval(name, found, None, seed).named(name).items()
            }
            for side, found in self.sides.items()
        }

    def differences(self, metric: str, seed: int) -> dict[str, Interval]:
        """The challenger's mean of `metric` and of the main metrics, less the champion's."""
        if self.champion is None:
            return {}
        known = self.challenger.means().keys() & self.champion.means().keys()
        names = dict.fromkeys((metric, LOG_LOSS, *WITH_INTERVAL))
        return {
            name: _interval(name, self.challenger, self.champion, seed) for name in names if name in known
        }


def _interval(name: str, found: RowMetrics, other: RowMetrics | None, seed: int) -> Interval:
    beside = None if other is None else other.metrics[name]
    return interval(found.metrics[name], found.clusters, beside, seed, HIGHEST.get(name, 1.0))


@dataclass(frozen=True)
class Evaluated:
    """What both bundles are compared by.

    Args:
        queries: the metrics of rankings.
        pairs: the log loss, where the experiment is judged by it and both have it.
        lacking: why one has no log loss, where the experiment is judged by it; else empty.
        evaluated_again: why both were evaluated again; empty if the bundles hold the metrics.
        doubt: why the queries favour the champion; empty if they do not.
    """

    queries: Paired
    pairs: Paired | None = None
    lacking: str = ""
    evaluated_again: str = ""
    doubt: str = ""


def judges_labels(experiment: Experiment) -> bool:
    """Whether the log loss of labelled pairs decides, if both bundles have it."""
    return experiment.gates.quality_metric == "selection" and experiment.training.selection in OF_LABELS


def stored(comparison: Comparison) -> Evaluated | str:
    """The metrics that the bundles hold, or why they cannot be compared.

    Raises:
        BundleDamaged: a file of metrics is damaged.
    """
    challenger, champion = comparison.challenger, comparison.champion
    if champion is not None:
        before, own = champion.manifest, challenger.manifest
        if own.quality.get(quality.SEARCHED) != before.quality.get(quality.SEARCHED):
            return "one bundle was measured through a graph, the other by exact search"
        if why := why_not_comparable(own, before.split_hash, before.dataset):
            is_other_split = own.split_hash != before.split_hash
            return f"{why}; the champion may have learned some of the queries" if is_other_split else why
    queries = _stored(QUERIES, challenger, champion)
    if isinstance(queries, str) or not judges_labels(comparison.experiment):
        return queries if isinstance(queries, str) else Evaluated(queries)
    if lacking := _without_losses(comparison):
        return Evaluated(queries, lacking=lacking)
    pairs = _stored(PAIRS, challenger, champion)
    return pairs if isinstance(pairs, str) else Evaluated(queries, pairs)


def _stored(file: RowFile, challenger: ComparedVersion, champion: ComparedVersion | None) -> Paired | str:
    """The metrics in one file of each bundle, or why they cannot be compared."""
    own = per_query.load(challenger.folder, file)
    if own is None:
        return f"the challenger brings no {file.content}"
    if champion is None:
        return Paired(own)
    other = per_query.load(champion.folder, file)
    if other is None:
        return f"the champion brings no {file.content}"
    if has_same_towers(challenger, champion):
        whole = len(other.rows)
        own, other = per_query.common(own, other)
        left_out = whole - len(own.rows)
        return Paired(own, other, left_out) if len(own.rows) else f"no test {file.rows} are in both bundles"
    same = np.array_equal(own.rows, other.rows)
    return Paired(own, other) if same else f"the bundles hold other {file.rows}"


def has_same_towers(challenger: ComparedVersion, champion: ComparedVersion | None) -> bool:
    """Whether the challenger was refreshed from a bundle with the champion's towers."""
    if champion is None or challenger.manifest.refreshed_from is None:
        return False
    return all(
        challenger.manifest.files[name].sha256 == champion.manifest.files[name].sha256
        for name in bundle.TOWERS.values()
    )


def refreshed_without_metrics(challenger: ComparedVersion, champion: ComparedVersion | None) -> str:
    """Why a refreshed challenger has no metrics of single queries; empty if it has, or other towers.

    Raises:
        BundleDamaged: a file of metrics is damaged.
    """
    if not has_same_towers(challenger, champion) or per_query.load(challenger.folder) is not None:
        return ""
    return str(challenger.manifest.quality.get("not_measured") or "it brings no metrics of single queries")


def why_without_losses(version: ComparedVersion) -> str:
    """Why a bundle cannot have losses of pairs, as its manifest says; empty if it can."""
    manifest = version.manifest
    if manifest.score.kind != "sigmoid":
        return f"the scores of version {version.version} are no probabilities"
    if manifest.refreshed_from is None and LOG_LOSS not in manifest.quality:
        return f"the test pairs of version {version.version} do not have both labels"
    return ""


def _without_losses(comparison: Comparison) -> str:
    return next(filter(None, map(why_without_losses, comparison.versions.values())), "")


def evaluate_again(why: str, comparison: Comparison) -> Evaluated:
    """Both bundles evaluated on the challenger's data.

    Args:
        why: the reason, for the report.

    Raises:
        TwinspireError: a bundle cannot be evaluated on these data.
    """
    data = comparison.data()
    found = [evaluate(each, data) for each in comparison.versions.values()]
    (own, own_losses), (other, other_losses) = found[0], found[1] if len(found) > 1 else (None, None)
    queries, pairs, lacking = Paired(own, other), None, ""
    if judges_labels(comparison.experiment):
        if own_losses is None or (other is not None and other_losses is None):
            lacking = _without_losses(comparison) or "the test pairs do not have both labels"
        else:
            pairs = Paired(own_losses, other_losses)
    return Evaluated(queries, pairs, lacking, why, own_impressions(data))


def evaluate(version: ComparedVersion, data: TrainingData) -> tuple[RowMetrics, RowMetrics | None]:
    """The metrics of the test queries and, of a click model, of the test pairs.

    Raises:
        DataError: the data lack a feature that the towers read.
    """
    manifest = version.manifest
    given: dict[str, Any] = {"query": data.queries, "item": data.items}
    read = {"query": manifest.schema.query, "item": manifest.schema.item}
    lacking = [f"{part}.{name}" for part in given for name in read[part] if name not in given[part]]
    if lacking:
        raise DataError(
            f"version {version.version} cannot be evaluated on the challenger's data: it reads "
            f"{', '.join(lacking)}, which they do not give"
        )
    read_data = data.as_read_by(manifest.schema.query)
    title = f"items by version {version.version}"
    model = served_model(version.folder, manifest, data, title)
    # Digests are of the data of both, so that a query has the same one for towers that read no times.
    products = quality.inner_products(read_data, model)
    losses = pair_losses.measure(data, products, manifest.score)
    return per_query.measure(data, quality.ranked(read_data, model)), losses
