"""The test split on a refreshed catalogue.

The towers are the champion's, so what can change is what they find: items that were added compete with the
right answers, and deleted ones are gone. A test query that asks for a deleted item is left out, here and in
the comparison with the champion.

An item is evaluated by the text that the split evaluates, as long as its content is that of the data set. An
item that was edited since has one text, and competes with that. Such a text may hold a test query that the
split has taken out of the item, and finding the item by it would prove nothing. So a query that asks for an
edited item is left out as well.

Of labelled pairs, those of deleted and edited items are left out, whatever their label.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from twinspire.export.bundles import why_not_comparable
from twinspire.export.encoding import ColumnRecords, ItemTower, encode_once
from twinspire.export.encoding.digests import Digests, item_digests
from twinspire.export.evaluation import pair_losses, per_query, quality
from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.evaluation.pair_losses import PairLosses
from twinspire.export.evaluation.per_query import PerQuery
from twinspire.export.hybrid.rebuild import interleaved, weights_of_rows, weights_of_texts
from twinspire.export.onnx.runtimes import Encode
from twinspire.export.refresh.merge import NO_DIGEST, Champion, Merged
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import DataError, MissingStage
from twinspire.protos.features import FeatureSpec, TextFeature
from twinspire.protos.figures import EXACT, WARNINGS
from twinspire.protos.hybrid.fusion import Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.config import Experiment
from twinspire.train.config.history_towers import HistoryTower
from twinspire.train.data.dataset import Dataset
from twinspire.train.data.training_data import (
    Histories,
    Pairs,
    TrainingData,
    data_of_kept_towers,
    texts_of,
    values_of,
)
from twinspire.train.evaluation.intervals import drawn_in
from twinspire.train.evaluation.report import evaluate_labels, evaluate_ranking

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NotMeasured:
    """Why the test split does not apply to the catalogue."""

    why: str


@dataclass(frozen=True)
class Measured:
    """Metrics of the refreshed bundle, for its manifest, and of each query.

    Args:
        losses: of each labelled pair; None if there are none.
    """

    metrics: dict[str, Any]
    queries: PerQuery
    losses: PairLosses | None


@dataclass(frozen=True)
class _Columns:
    """The items to evaluate on.

    Args:
        is_own: whether each is evaluated by the text of the split, bool (N,).
        by_split: rows of these in the data set.
        places: of all in the catalogue, int64 (N,).
        is_edited: whether each has other content than in the data set, bool (N,).
    """

    is_own: npt.NDArray[np.bool_]
    by_split: Rows
    places: Rows
    is_edited: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """The split of the data set that the champion was made on.

    Args:
        experiment: whose settings hold.
        dataset: of the split.
        data: the same in memory.
        tower: the champion's item tower.
        champion: the bundle that is refreshed.
    """

    experiment: Experiment
    dataset: Dataset
    data: TrainingData
    tower: ItemTower
    champion: Champion

    @property
    def manifest(self) -> Manifest:
        """Of the champion."""
        return self.champion.manifest

    def left_out(self, merged: Merged) -> Rows:
        """Rows of the test queries that ask for an item that a catalogue lacks, or has with other content."""
        place_of = self._place_of(merged)
        is_gone = (place_of < 0) | self._edited(merged, place_of)
        queries, relevant = self.data.parts["test"].by_query()
        found: Rows = queries[[bool(is_gone[items].any()) for items in relevant]]
        return found

    def measure(
        self,
        query: Encode,
        merged: Merged,
        vectors: Any,
        console: Console,
        lexical: LexicalIndex | None = None,
    ) -> Measured:
        """Measure the test split.

        Args:
            query: encoder of the query tower.
            merged: the catalogue.
            vectors: float32 (N, D), of its items, encoded from the columns of the catalogue.
            console: receives progress.
            lexical: the lexical index over the catalogue, if the bundle is hybrid.
        """
        left_out = self.left_out(merged)
        gone = len(left_out)
        items, data, columns = self._on(merged, vectors, left_out, console)
        inputs = self.manifest.schema.side("query")
        with console.status("quality on the test split"):
            hybrid = None
            if lexical is not None:
                fusion = Fusion(self._evaluated_index(lexical, columns), items)
                hybrid = HybridRanking(items, fusion)
            model = quality.ServedModel(query, inputs, items, hybrid)
            answers = quality.ranked(data, model, console)
            metrics: dict[str, Any] = dict(evaluate_ranking(data, "test", lambda _: answers))
            rows, _ = data.parts["test"].by_query()
            labelled = _of_unchanged_items(data, columns.is_edited)
            products = quality.inner_products(labelled, model, console)
        selection, score = self.experiment.training.selection, self.manifest.score
        if products is not None:
            found = products
            metrics |= evaluate_labels(labelled, "test", lambda _: found, score)
        metrics |= {
            "queries": len(rows),
            "queries_left_out": gone,
            "evaluated_text": self.dataset.report["evaluated_text"],
            quality.SEARCHED: EXACT,
            quality.REFITTED: self.manifest.quality.get(quality.REFITTED, False),
            WARNINGS: self.manifest.quality.get(WARNINGS, []),
            **drawn_in(labelled, "test"),
            "verdict": f"{quality.verdict(metrics, selection)}; refreshed, {gone:,} queries left out",
        }
        losses = pair_losses.measure(labelled, products, score)
        return Measured(metrics, per_query.measure(data, answers), losses)

    def _evaluated_index(self, lexical: LexicalIndex, columns: _Columns) -> LexicalIndex:
        """The lexical index over the items to evaluate on, by the statistics of the bundle."""
        texts = texts_of(self.data.items, self.manifest.schema.item)
        is_own, places = columns.is_own, columns.places
        own = weights_of_texts(lexical, [texts[row] for row in columns.by_split], places[is_own])
        served = weights_of_rows(lexical.postings, places[~is_own])
        return LexicalIndex(interleaved(lexical.postings, own, served, is_own), lexical.hybrid)

    def _on(
        self, merged: Merged, vectors: Any, left_out: Rows, console: Console
    ) -> tuple[Any, TrainingData, _Columns]:
        """Vectors to evaluate on, the data with rows of these, without the queries left out, and the items.

        The rows are those of the data set's items that are left, then the other items of the catalogue, then
        the deleted items, which have no vectors.
        """
        ids, place_of = list(self.data.item_ids), self._place_of(merged)
        left, deleted = np.flatnonzero(place_of >= 0), np.flatnonzero(place_of < 0)
        others = np.setdiff1d(np.arange(len(merged.origin)), place_of[left])
        items = np.concatenate([vectors[place_of[left]], vectors[others]])
        by_split = self._evaluated_by_split(merged, place_of)
        if by_split.any():
            items[: len(left)][by_split[left]] = self._evaluated(console)[by_split]
        rows = np.empty(len(ids), np.int64)
        rows[left] = np.arange(len(left))
        rows[deleted] = len(items) + np.arange(len(deleted))
        order = [ids[n] for n in left] + [merged.items.ids[n] for n in others] + [ids[n] for n in deleted]
        data = _with_rows(self.data, rows, order, left_out)
        is_edited = self._edited(merged, place_of)
        no_others = np.zeros(len(others), np.bool_)
        columns = _Columns(
            is_own=np.concatenate([by_split[left], no_others]),
            by_split=left[by_split[left]],
            places=np.concatenate([place_of[left], others]),
            is_edited=np.concatenate([is_edited[left], no_others]),
        )
        return items, data, columns

    def _place_of(self, merged: Merged) -> Rows:
        """The place in the catalogue of each item of the data set, -1 without one."""
        places = {item_id: place for place, item_id in enumerate(merged.items.ids)}
        return np.array([places.get(item_id, -1) for item_id in self.data.item_ids], np.int64)

    def _evaluated_by_split(self, merged: Merged, place_of: Rows) -> npt.NDArray[np.bool_]:
        """Of each item of the data set, whether it is evaluated by another text than it is served by."""
        features = self.manifest.schema.item.values()
        if not any(isinstance(spec, TextFeature) and spec.serves_other_text for spec in features):
            return np.zeros(len(place_of), np.bool_)
        found: npt.NDArray[np.bool_] = (place_of >= 0) & ~self._edited(merged, place_of)
        return found

    def _edited(self, merged: Merged, place_of: Rows) -> npt.NDArray[np.bool_]:
        """Of each item of the data set, whether the catalogue has it with other content."""
        served, unknown = merged.items.digests[place_of], np.frombuffer(NO_DIGEST, np.uint8)
        is_same = (served == self._digests).all(axis=1) | (served == unknown).all(axis=1)
        found: npt.NDArray[np.bool_] = (place_of >= 0) & ~is_same
        return found

    @cached_property
    def _digests(self) -> Digests:
        """The digests of the data set's items, with the values that the catalogue serves."""
        values = values_of(self.dataset.items, self.manifest.schema.item, catalogue=True)
        return item_digests(self.tower.inputs, values, self.manifest.hybrid is not None)

    def _evaluated(self, console: Console) -> Any:
        """Vectors of the data set's items by the text of the split."""
        records = ColumnRecords(self.data.items, "items as evaluated")
        return encode_once(self.manifest.name, self.tower, records, console).vectors


def evaluation(
    experiment: Experiment, champion: Champion, tower: ItemTower, read: Callable[[], Dataset]
) -> Evaluation | NotMeasured:
    """The split that the champion was measured on, if it still applies.

    Args:
        experiment: as configured now.
        champion: the bundle that is refreshed.
        tower: its item tower.
        read: reads the data set.
    """
    schema = champion.manifest.schema
    is_recipe = isinstance(experiment.tower, HistoryTower)
    if not (_fits(experiment.query, schema.query, is_recipe) and _fits(experiment.item, schema.item)):
        return NotMeasured("the features of the experiment are not those of the champion")
    try:
        dataset = read()
    except (DataError, MissingStage) as error:
        return NotMeasured(f"the data set cannot be read: {error}")
    if why := why_not_comparable(champion.manifest, dataset.split_hash, dataset.report):
        return NotMeasured(f"the data set is not that of the champion: {why}")
    experiment = experiment.with_features(schema)
    data = data_of_kept_towers(dataset, experiment)
    return Evaluation(experiment, dataset, data, tower, champion)


def _fits(
    configured: Mapping[str, FeatureSpec], served: Mapping[str, FeatureSpec], is_recipe: bool = False
) -> bool:
    """Whether the features are the same; a key that the experiment leaves open may have any value.

    Args:
        configured: of the experiment.
        served: of the bundle.
        is_recipe: the tower is of kind "history", which serves no times of a history where it becomes a sum.
    """
    if configured.keys() != served.keys():
        return False
    return all(type(spec) is type(served[name]) for name, spec in configured.items()) and all(
        getattr(spec, each.name) in (FROM_DATA, getattr(served[name], each.name))
        or (is_recipe and each.name == "times" and not getattr(served[name], each.name))
        for name, spec in configured.items()
        for each in dataclasses.fields(spec)
    )


def _with_rows(data: TrainingData, rows: Rows, ids: list[str], left_out: Rows) -> TrainingData:
    """A data set with other rows of items, without some test queries.

    Args:
        rows: the new row of each item.
        ids: by new row.
        left_out: rows of the test queries to leave out.
    """
    parts = {name: each.with_rows(rows) for name, each in data.parts.items()}
    parts["test"] = _without(parts["test"], left_out)
    queries = {
        name: _moved(values, rows, ids) if isinstance(values, Histories) else values
        for name, values in data.queries.items()
    }
    histories = None if data.histories is None else _moved(data.histories, rows, ids)
    return dataclasses.replace(
        data,
        queries=queries,
        items={},
        parts=parts,
        item_count=len(ids),
        item_ids=ids,
        histories=histories,
        judged=None,  # a refresh measures the test split alone
    )


def _moved(histories: Histories, rows: Rows, ids: list[str]) -> Histories:
    return dataclasses.replace(histories, run=rows[histories.run], ids=ids)


def _of_unchanged_items(data: TrainingData, is_edited: npt.NDArray[np.bool_]) -> TrainingData:
    """The data without the test pairs of deleted and edited items.

    The queries of positive pairs of such items are left out already, but not those of negative pairs.

    Args:
        is_edited: of each item with a vector, bool (N,); deleted items have rows beyond these.
    """
    test = data.parts["test"]
    kept = test.item < len(is_edited)
    kept[kept] = ~is_edited[test.item[kept]]
    return dataclasses.replace(data, parts={**data.parts, "test": test.where(kept)})


def _without(pairs: Pairs, queries: Rows) -> Pairs:
    return pairs.where(~np.isin(pairs.query, queries))


def applies(found: Evaluation | NotMeasured, merged: Merged) -> Evaluation | NotMeasured:
    """The evaluation; NotMeasured if no test query is left."""
    if isinstance(found, NotMeasured):
        return found
    positive = found.data.parts["test"].positive()
    if not len(positive):
        return NotMeasured("the test split has no queries")
    if np.isin(positive.query, found.left_out(merged)).all():
        return NotMeasured("each test query asks for an item that was deleted or edited")
    return found
