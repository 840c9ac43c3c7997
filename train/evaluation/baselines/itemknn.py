"""Item-kNN: cosines to the most similar items, summed over the history (Sarwar et al. 2001)."""

from train.evaluation.ranking import Baseline, FittedBaseline, Fitting, has_histories, rank_by_scores, summed
from train.models.collaborative import interaction_matrix, item_knn

LARGEST = 20_000  # items; the matrix grows with the square
NEIGHBOURS = (5, 10, 20, 50, 100, 200)


def _fit(fitting: Fitting) -> FittedBaseline:
    best = fitting.choose("neighbours of item-kNN", int, _choose)
    weights = item_knn(interaction_matrix(fitting.data), best)
    return FittedBaseline(rank_by_scores(fitting.data, weights), {"neighbours": best})


def _choose(fitting: Fitting) -> int:
    tuning = fitting.tuning()
    matrix = interaction_matrix(tuning.data)
    return tuning.climb(
        "neighbours", NEIGHBOURS, NEIGHBOURS[3], lambda count: summed(tuning.data, item_knn(matrix, count))
    )


BASELINE = Baseline("itemknn", "item-kNN", has_histories, _fit, "histories", LARGEST)
