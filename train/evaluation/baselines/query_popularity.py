"""The items with most training pairs of the same query, and behind or between them those of a text ranking.

Queries are the same if their words are (`protos/inputs/query_words.py`); a blank one equals no other.

In a click log this is what a shop has without any model: the items that were clicked most after this query.
Behind them come the items of BM25 or of TF-IDF, whichever is better there on validation. Or the clicks are
smoothed by a Dirichlet prior (Zhai and Lafferty 2004, section 3): an item has the score

    clicks after the query + weight * p,    p ~ text score^power * (all its clicks + 1)^popularity

where ~ stands for "in proportion to", and p sums to 1 over the `CANDIDATES` items with the highest text
scores. Weight, power and popularity are chosen from a grid of 3 x 3 x 4 = 36 settings and no smoothing, on up
to 1,000 validation queries, by the rule of the text rankings: of what is within a standard error of the best,
and no worse than without smoothing, that nearest to the default, which is BM25 behind the clicks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import scipy.sparse

from twinspire.protos.lexical import WeightingName
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import Rows, TrainingData
from twinspire.train.evaluation.intervals import clusters_of, within_standard_error
from twinspire.train.evaluation.lexical_choice import TUNED_ON, fitted, has_texts
from twinspire.train.evaluation.lexical_model import best_of_rows
from twinspire.train.evaluation.query_groups import repeated_share
from twinspire.train.evaluation.ranking import Baseline, BaselineFitter, FittedBaseline
from twinspire.train.metrics import CUTOFFS, per_query

FALLBACKS: tuple[WeightingName, ...] = ("bm25", "tfidf")
# That nearest to the default first.
WEIGHTS = (30.0, 10.0, 3.0)  # clicks
POWERS = (4.0, 8.0, 2.0)
POPULARITIES = (0.25, 0.5, 0.0, 1.0)
CANDIDATES = 1_000
_BLOCK = 256  # queries that are ranked at a time


@dataclass(frozen=True)
class QuerySettings:
    """What is chosen on validation; with a weight of 0 clicked items come first."""

    fallback: WeightingName = "bm25"
    weight: float = 0.0
    power: float = POWERS[0]
    popularity: float = POPULARITIES[0]


def _has_known_queries(experiment: Experiment, data: TrainingData) -> bool:
    """Whether a query of validation or test is in training, too; else the ranking is that of BM25."""
    if not has_texts(experiment, data):
        return False
    before = data.before_refit or data  # a refit trains on the validation queries themselves
    return any(repeated_share(before, part) for part in ("validation", "test"))


class _QueryClicks:
    """The clicks after some queries and the items of a text ranking; rankings of both by some settings."""

    def __init__(self, fitter: BaselineFitter, fallback: WeightingName) -> None:
        data, self._text = fitter.data, fitted(fitter, fallback, cut=True)
        words = data.query_words
        assert words is not None
        pairs = data.parts["train"].positive()
        totals = np.bincount(pairs.item, pairs.weight, data.item_count)
        pairs = pairs.where(words[pairs.query] >= 0)
        places = (words[pairs.query], pairs.item)
        # The last row, without clicks, is that of blank queries.
        shape = (int(words.max()) + 2, data.item_count)
        self._words, self._totals = words, totals + 1.0
        self._clicks = scipy.sparse.csr_matrix((pairs.weight.astype(np.float64), places), shape)
        self._clicks.eliminate_zeros()  # equal pairs are summed
        # Weights need not be whole numbers; their ranks are, and have the same order.
        self._ranks = self._clicks.copy()
        self._ranks.data = np.unique(self._clicks.data, return_inverse=True)[1] + 1.0

    def rank(self, rows: Rows, settings: QuerySettings) -> Rows:
        """The ranking (Q, K) of the items for query rows (Q,)."""
        most = CANDIDATES if settings.weight else max(CUTOFFS)
        blocks = [rows[at : at + _BLOCK] for at in range(0, max(1, len(rows)), _BLOCK)]
        return np.concatenate([self.of(block, most)(settings) for block in blocks])

    def of(self, rows: Rows, candidates: int = CANDIDATES) -> Callable[[QuerySettings], Rows]:
        """Rankings (Q, K) of the items for query rows (Q,) by any settings; all queries are held at once."""
        ranked, scores = self._text.model.best((self._text.texts[row] for row in rows), candidates)
        query, place = np.nonzero(ranked >= 0)
        shape = (len(rows), len(self._totals))
        cells = (scores[query, place].astype(np.float64), (query, ranked[query, place]))
        texts = scipy.sparse.csr_matrix(cells, shape)
        clicks, ranks = self._clicks[self._words[rows]], self._ranks[self._words[rows]]

        def rank(settings: QuerySettings) -> Rows:
            total = texts / (1.0 + scores.max(initial=0)) + ranks
            if settings.weight:
                prior = texts.copy()
                prior.data = texts.data**settings.power * self._totals[texts.indices] ** settings.popularity
                sums = np.asarray(prior.sum(axis=1)).ravel()
                total = clicks + scipy.sparse.diags(settings.weight / sums.clip(min=1e-300)) @ prior
            return best_of_rows(total, min(max(CUTOFFS), shape[1]))[0]

        return rank


def _choose(fitter: BaselineFitter) -> QuerySettings:
    data = fitter.data
    if data.chosen_with is not None:  # the items' texts may hold validation queries
        data = replace(data, items=data.chosen_with, chosen_with=None)
        fitter = BaselineFitter(fitter.experiment, data, fitter.say, fitter.choices)
    rows, relevant = data.parts["validation"].by_query()
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:TUNED_ON])
    if not len(drawn):
        return QuerySettings()
    clusters, wanted = clusters_of(data, "validation")[drawn], [relevant[n] for n in drawn]
    rankings = {each: _QueryClicks(fitter, each).of(rows[drawn]) for each in FALLBACKS}

    def best(tried: list[QuerySettings]) -> QuerySettings:
        fitter.say("query popularity")
        ranked = {each: rankings[each.fallback](each) for each in tried}
        curve = {each: per_query(found, wanted)["ndcg_at_10"] for each, found in ranked.items()}
        least = curve[tried[0]].mean()  # a worse one may be within a standard error that is large
        better = {each: values for each, values in curve.items() if values.mean() >= least}
        return within_standard_error(better, clusters)[0]

    found = best([QuerySettings(each) for each in FALLBACKS])
    grid = [
        replace(found, weight=w, power=a, popularity=b) for w, a, b in product(WEIGHTS, POWERS, POPULARITIES)
    ]
    return best([found, *grid])


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    settings = fitter.choose("query popularity", QuerySettings, _choose)
    clicks = _QueryClicks(fitter, settings.fallback)
    smoothed = vars(settings) if settings.weight else {"fallback": settings.fallback}
    return FittedBaseline(lambda rows: clicks.rank(rows, settings), smoothed)


BASELINE = Baseline(
    "query_popularity",
    "query popularity",
    _has_known_queries,
    _fit,
    "texts on both sides, and a query of validation or test whose words are in training, too",
)
