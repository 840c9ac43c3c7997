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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export.bundles import why_not_comparable
from twinspire.export.encoding.digests import item_digests
from twinspire.export.encoding.encoding import ItemTower, encode_once
from twinspire.export.encoding.records import ColumnRecords
from twinspire.export.evaluation import pair_losses, per_query, quality
from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.hybrid.postings import interleaved, weights_of_rows, weights_of_texts
from twinspire.export.onnx.runtimes import Encode
from twinspire.export.refresh.merge import NO_DIGEST, Champion, Merged
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import DataError, InvalidInput, MissingStage
from twinspire.protos.features import TextFeature, TimeFeature
from twinspire.protos.figures import EXACT, WARNINGS
from twinspire.protos.hybrid.fusion import Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.train.config import Experiment
from twinspire.train.data.columns import column_names
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
from twinspire.train.progress import PROGRESS

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """The split of the data set that the champion was made on, and a new catalogue.

    Evaluated are the data set's items that the catalogue still has, then the other items of the catalogue.

    Args:
        experiment: whose settings hold.
        dataset: of the split.
        data: the same in memory, M items.
        champion: the bundle that is refreshed.
        merged: the catalogue.
    """

    experiment: Experiment
    dataset: Dataset
    data: TrainingData
    champion: Champion
    merged: Merged

    @property
    def manifest(self) -> Manifest:
        """Of the champion."""
        return self.champion.manifest

    @cached_property
    def left_out(self) -> Rows:
        """Rows of the test queries that ask for an item that was deleted or edited."""
        queries, relevant = self.data.parts["test"].by_query()
        found: Rows = queries[[not self._is_same[items].all() for items in relevant]]
        return found

    def measure(
        self, query: Encode, vectors: Any, folder: Path, lexical: LexicalIndex | None
    ) -> dict[str, Any]:
        """Measure the test split; returns the metrics, and writes those of single queries and pairs.

        Args:
            query: encoder of the query tower.
            vectors: float32 (N, D), of the catalogue's items, encoded from its columns.
            folder: of the new bundle.
            lexical: the lexical index over the catalogue, if the bundle is hybrid.
        """
        items, hybrid = self._vectors(vectors), None
        if lexical is not None:
            hybrid = HybridRanking(items, Fusion(self._lexical(lexical), items))
        model = quality.ServedModel(query, self.manifest.schema.side("query"), items, hybrid)
        test = self.data.parts["test"]
        kept = test.where(~np.isin(test.query, self.left_out))
        data, labelled = self._moved(kept), self._moved(kept.where(self._is_same[kept.item]))
        with PROGRESS.status("quality on the test split"):
            answers = quality.ranked(data, model)
            metrics: dict[str, Any] = dict(evaluate_ranking(data, "test", lambda _: answers))
            products = quality.inner_products(labelled, model)
        if products is not None:
            metrics |= evaluate_labels(labelled, "test", lambda _: products, self.manifest.score)
        per_query.save(per_query.measure(data, answers), folder)
        losses = pair_losses.measure(labelled, products, self.manifest.score)
        if losses is not None:
            per_query.save(losses, folder, per_query.PAIRS)
        selection, gone = self.experiment.training.selection, len(self.left_out)
        return metrics | {
            "queries": len(data.parts["test"].by_query()[0]),
            "queries_left_out": gone,
            "evaluated_text": self.dataset.report["evaluated_text"],
            quality.SEARCHED: EXACT,
            quality.REFITTED: self.manifest.quality.get(quality.REFITTED, False),
            WARNINGS: self.manifest.quality.get(WARNINGS, []),
            **drawn_in(labelled, "test"),
            "verdict": f"{quality.verdict(metrics, selection)}; refreshed, {gone:,} queries left out",
        }

    @cached_property
    def _place_of(self) -> Rows:
        """The place in the catalogue of each item of the data set, -1 without one, (M,)."""
        places = {item_id: place for place, item_id in enumerate(self.merged.items.ids)}
        return np.array([places.get(item_id, -1) for item_id in self.data.item_ids], np.int64)

    @cached_property
    def _is_same(self) -> Mask:
        """Whether the catalogue has each item of the data set with the same content, (M,)."""
        values = values_of(self.dataset.items, self.manifest.schema.item, catalogue=True)
        own = item_digests(self.manifest.schema.side("item"), values, self.manifest.hybrid is not None)
        served, unknown = self.merged.items.digests[self._place_of], np.frombuffer(NO_DIGEST, np.uint8)
        is_same = (served == own).all(axis=1) | (served == unknown).all(axis=1)
        found: Mask = (self._place_of >= 0) & is_same
        return found

    @cached_property
    def _left(self) -> Rows:
        """Rows in the data set of the items that the catalogue still has."""
        return np.flatnonzero(self._place_of >= 0)

    @cached_property
    def _others(self) -> Rows:
        """Places of the catalogue's items that the data set does not have."""
        return np.setdiff1d(np.arange(len(self.merged.origin)), self._place_of[self._left])

    @cached_property
    def _by_split(self) -> Mask:
        """Which of `_left` are evaluated by another text than they are served by."""
        features = self.manifest.schema.item.values()
        if not any(isinstance(spec, TextFeature) and spec.serves_other_text for spec in features):
            return np.zeros(len(self._left), np.bool_)
        return self._is_same[self._left]

    def _vectors(self, vectors: Any) -> Any:
        """The vectors of the evaluated items."""
        items = np.concatenate([vectors[self._place_of[self._left]], vectors[self._others]])
        if self._by_split.any():
            tower = ItemTower.of(self.champion.folder, self.manifest)
            records = ColumnRecords(self.data.items, "items as evaluated")
            found = encode_once(self.manifest.name, tower, records).vectors
            items[: len(self._left)][self._by_split] = found[self._left[self._by_split]]
        return items

    def _lexical(self, lexical: LexicalIndex) -> LexicalIndex:
        """The lexical index over the evaluated items, by the statistics of the bundle."""
        texts = texts_of(self.data.items, self.manifest.schema.item)
        places = np.concatenate([self._place_of[self._left], self._others])
        is_own = np.concatenate([self._by_split, np.zeros(len(self._others), np.bool_)])
        some = [texts[row] for row in self._left[self._by_split]]
        own = weights_of_texts(lexical, some, places[is_own])
        served = weights_of_rows(lexical.postings, places[~is_own])
        return LexicalIndex(interleaved(lexical.postings, own, served, is_own), lexical.hybrid)

    def _moved(self, test: Pairs) -> TrainingData:
        """The data with these test pairs, and the rows of the evaluated items.

        Deleted items, which have no vectors, come after these.
        """
        data, ids = self.data, self.data.item_ids
        order = [*self._left.tolist(), *np.flatnonzero(self._place_of < 0).tolist()]
        rows = np.empty(len(ids), np.int64)
        rows[order] = np.arange(len(ids))
        rows[self._place_of < 0] += len(self._others)
        others = [self.merged.items.ids[place] for place in self._others]
        named = [ids[row] for row in order]
        moved = [*named[: len(self._left)], *others, *named[len(self._left) :]]

        def of(histories: Histories) -> Histories:
            return dataclasses.replace(histories, run=rows[histories.run], ids=moved)

        return dataclasses.replace(
            data,
            queries={
                name: of(values) if isinstance(values, Histories) else values
                for name, values in data.queries.items()
            },
            items={},
            parts={name: each.with_rows(rows) for name, each in {**data.parts, "test": test}.items()},
            item_count=len(moved),
            item_ids=moved,
            histories=None if data.histories is None else of(data.histories),
            judged=None,  # a refresh measures the test split alone
        )


def evaluation(
    experiment: Experiment, champion: Champion, merged: Merged, read: Callable[[], Dataset]
) -> Evaluation | str:
    """The split that the champion was measured on; or why it does not apply to the catalogue.

    Args:
        experiment: as configured now.
        champion: the bundle that is refreshed.
        merged: the catalogue.
        read: reads the data set.
    """
    schema = champion.manifest.schema
    try:
        dataset = read()
    except (DataError, MissingStage) as error:
        return f"the data set cannot be read: {error}"
    if why := why_not_comparable(champion.manifest, dataset.split_hash, dataset.report):
        return f"the data set is not that of the champion: {why}"
    lacking = {*column_names(schema.query)} - {*dataset.column_names}
    lacking |= {*column_names(schema.item)} - {*dataset.items.columns}
    if any(isinstance(each, TimeFeature) for each in schema.query.values()):
        lacking |= {"time"} - {*dataset.column_names}
    if lacking:
        return f"the data set lacks what the champion's towers read: {', '.join(sorted(lacking))}"
    experiment = experiment.with_features(schema)
    try:
        data = data_of_kept_towers(dataset, experiment)
        found = Evaluation(experiment, dataset, data, champion, merged)
        positive = data.parts["test"].positive()
        is_left_out = np.isin(positive.query, found.left_out)
    except InvalidInput as error:  # a column has values of another kind than the towers read
        return f"the data set does not fit the champion's towers: {error}"
    if not len(positive):
        return "the test split has no queries"
    if is_left_out.all():
        return "each test query asks for an item that was deleted or edited"
    return found
