"""Makes the reference of a bundle for drift (`protos/drift.py`): at export, and again at a refresh.

Queries are those of validation pairs, of users one each: training has read all words and items of its own
part, so what it does not know says nothing there. They are answered by exact search over the items as
evaluated. Towers that have learned the validation pairs in the end (`training.refit`) know their items and
answer them better than others: then the reference has neither answers nor unknown items, and the words are
those of the training before.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from twinspire.export.encoding.records import rows_of
from twinspire.export.evaluation.quality import Rows, ServedModel, Vectors, query_texts
from twinspire.export.evaluation.weak_scores import best_answers
from twinspire.protos import drift
from twinspire.protos.bundle import Score
from twinspire.protos.drift import DriftReference, Floats
from twinspire.protos.features import Schema
from twinspire.protos.nearest.scores import SCORE_TOLERANCE
from twinspire.train.data.training_data import Pairs, TrainingData, texts_of

SAMPLE = 2_000  # queries, and items
DIRECTIONS = 16  # principal components of query vectors
CATEGORIES = 50  # of a feature that have a code of their own

Values = Mapping[str, Sequence[Any]]


def learn(
    data: TrainingData,
    schema: Schema,
    model: ServedModel,
    queries: Vectors,
    items: Values,
    score: Score,
    weak_score: float | None,
) -> DriftReference:
    """The reference of a bundle that a training run gives.

    Args:
        model: with the evaluated items.
        queries: vectors of the validation queries, (Q, D), in the order of `by_query`.
        items: feature -> raw values of the items, as served.
        weak_score: of the manifest.
    """
    distinct, _ = data.parts["validation"].by_query()
    rows = _drawn(_one_of_each(data.parts["validation"].positive()), SAMPLE)
    vectors = queries[np.searchsorted(distinct, rows)]
    sampled = np.sort(_drawn(np.arange(len(model.items)), SAMPLE))
    sides = {"query": rows_of(data.queries, rows), "item": rows_of(items, sampled)}
    categories = {}
    for side, features in (("query", schema.query), ("item", schema.item)):
        for name in [name for name, spec in features.items() if spec.kind == "category"]:
            counts = Counter(map(drift.first_category, sides[side][name])).most_common(CATEGORIES)
            categories[f"{side}.{name}"] = [each for each, _ in counts if each]
    read, _ = (data.before_refit or data).parts["train"].by_query()
    texts = [*texts_of(rows_of(data.queries, read), schema.query), *texts_of(data.items, schema.item)]
    directions = np.zeros((DIRECTIONS, queries.shape[1]), np.float32)
    if len(vectors) > 1:
        components = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:DIRECTIONS]
        directions[: len(components)] = components
    measured = _item_measures(schema, categories, sides["item"], len(sampled))
    made = DriftReference(
        np.empty((0, 0), np.float32),
        _answers(data, model, vectors, rows, score, weak_score),
        measured,
        measured,
        sampled,
        drift.word_bits(texts),
        directions,
        categories,
    )
    of = drift.query_measures(model.inputs, made)
    asked = [{name: column[n] for name, column in sides["query"].items()} for n in range(len(rows))]
    rated = [of(values, vector) for values, vector in zip(asked, vectors, strict=True)]
    table = np.array(rated, np.float32).reshape(len(rows), -1)
    if data.before_refit is not None:
        names = [each.name for each in drift.measures(model.inputs, categories, made.words.tobytes())]
        table[:, [n for n, name in enumerate(names) if name.endswith(drift.UNKNOWN_ITEMS)]] = np.nan
    return replace(made, queries=table)


def refreshed(
    reference: DriftReference, schema: Schema, count: int, origin: Rows, fresh: Values
) -> DriftReference:
    """The reference of a bundle whose items are others: with a sample of these, in the same share.

    Values of unchanged items are not at hand, so if none of the sample is left, none of these is in it.

    Args:
        count: items of the bundle that is refreshed.
        origin: (N,), the row there of each item, below 0 for an item that is new or has changed.
        fresh: feature -> raw values of the latter, in their order.
    """
    kept = np.flatnonzero(np.isin(origin, reference.rows))
    before = reference.served[np.searchsorted(reference.rows, origin[kept])]
    changed = np.flatnonzero(origin < 0)
    most = -(-len(reference.rows) * len(changed) // count)
    drawn = _drawn(np.arange(len(changed)), SAMPLE if len(changed) == len(origin) else most)
    after = _item_measures(schema, reference.categories, rows_of(fresh, drawn), len(drawn))
    rows = np.concatenate([kept, changed[drawn]])
    order = np.argsort(rows)
    return replace(reference, served=np.concatenate([before, after])[order], rows=rows[order])


def popularity_ranks(popularity: Sequence[float]) -> npt.NDArray[np.float64]:
    """The rank of each item by its popularity, (N,), to 1; equal ones share their mean.

    An item without popularity, such as a new one of a refresh, has rank 0 and does not move the others.
    """
    popular = int(np.count_nonzero(popularity))
    _, of, counts = np.unique(popularity, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[of] - (len(popularity) - popular)
    return np.asarray(np.maximum(ranks, 0.0) / max(1, popular))


def _answers(
    data: TrainingData, model: ServedModel, vectors: Vectors, rows: Rows, score: Score, weak: float | None
) -> Floats:
    """`ANSWERS` of some queries, but for those of which the tower knows nothing, or of all after a refit."""
    blank = {name: ["" if spec.kind == "text" else None] for name, spec in model.inputs.features.items()}
    unknown = model.query(model.inputs.to_arrays(blank))
    is_known = np.abs(vectors - unknown).max(axis=1) > SCORE_TOLERANCE * np.abs(unknown).max()
    if data.before_refit is not None or not is_known.any():
        return np.empty((0, len(drift.ANSWERS)), np.float32)
    vectors, rows = vectors[is_known], rows[is_known]
    texts = query_texts(data, model.inputs, rows)
    best, matched, found = best_answers(model, vectors, texts, data.seen(rows))
    shown = expit(best + score.bias) if score.kind == "sigmoid" else best
    is_hit = found >= 0
    ranks = popularity_ranks(data.counts().tolist())[found] * is_hit
    popularity = ranks.sum(axis=1) / np.maximum(1, is_hit.sum(axis=1))
    kind = np.where(is_hit.any(axis=1), matched < (-np.inf if weak is None else weak), 2)
    return np.stack([shown, popularity, kind], axis=1).astype(np.float32)


def _one_of_each(pairs: Pairs) -> Rows:
    """The queries of some pairs, of each user that of one at random; a group is often a query or an item."""
    if pairs.user is None:
        return pairs.query
    order = _drawn(np.arange(len(pairs)), len(pairs))
    return pairs.query[order[np.unique(pairs.user[order], return_index=True)[1]]]


def _drawn(rows: Rows, most: int) -> Rows:
    return np.random.default_rng(0).permutation(rows)[:most]


def _item_measures(
    schema: Schema, categories: Mapping[str, Sequence[str]], values: Values, count: int
) -> Floats:
    """The measures of some items, float32 (count, I)."""
    columns = drift.measures(schema.side("item"), categories)
    table = [[each.of(value) for value in values[each.feature]] for each in columns]
    return np.array(table, np.float32).reshape(len(columns), count).T
