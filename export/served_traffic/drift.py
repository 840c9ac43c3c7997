"""Whether the queries, answers and items of a service are still like those that its bundle was made from.

A bundle's reference (`protos/drift.py`) has measures of validation queries, of their answers, and of the
items at training. A window is what a served log has of some hours; the catalogue is the bundle's own, which a
refresh has changed. Queries of one user depend on each other, so a window has one query of each user and day:
the log hashes users with a salt of the day. Queries without a user count each.

    PSI       sum over bins of (q - p) ln(q / p), p and q the shares in reference and window (Kullback 1959):
              bins are categories, or the tenths of the reference; absent values have one of their own
    p         of numbers by Kolmogorov and Smirnov, of categories by chi squared, both of two samples
    vectors   a logistic regression tells window and reference apart by half of the vectors; p is that of its
              accuracy on the other half if both were alike (Lopez-Paz and Oquab 2017), PSI that of its score

A feature has drifted if its p, corrected for the number of features (Holm 1979), is below `ERROR`, and its
PSI is at least `LEAST_PSI`: large samples make any difference significant. So a window without drift raises
an alarm with a probability of `ERROR` at most.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, chi2_contingency, ks_2samp
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from twinspire.export.served_traffic.served_answers import Record, user_numbers
from twinspire.protos.drift import ANSWERS, FIRST, UNKNOWN_ITEMS, DriftReference, Floats, measures
from twinspire.protos.features import Schema

ERROR = 0.01  # probability of an alarm in a window without drift, by the tests alone
LEAST_PSI = 0.1  # a moderate shift, by the usual rule of thumb
LEAST = 200  # queries in reference and window, and answers
EXPECTED = 5  # times of a category on the smaller side if both are alike, so that chi squared holds

Feature = dict[str, Any]  # as `compare` describes it


def compare(
    reference: DriftReference,
    schema: Schema,
    window: Sequence[Record],
    ranks: Mapping[str, float],
    earlier: Sequence[Record] | None = None,
) -> tuple[list[Feature], int, str]:
    """Compare a window, and the catalogue, with a reference.

    Args:
        schema: of the bundle.
        window: answers as `ServedFiles.window` gives them.
        ranks: item -> its rank by popularity (`popularity_ranks`).
        earlier: another window, which takes the place of the reference's queries.

    Returns:
        The features, the number of queries, and why these were not compared; empty if they were. A feature
        has `name`, `psi`, `p`, `effect` (the distance of Kolmogorov and Smirnov, or of vectors the accuracy;
        None of categories), `drifted`, and of its bins `labels`, and `shares` (2, bins) in reference and
        window.
    """
    before = (reference.queries, reference.answers) if earlier is None else _measured(earlier, ranks)
    after = _measured(window, ranks)
    of_items = measures(schema.side("item"), reference.categories)
    of_queries = measures(schema.side("query"), reference.categories, reference.words.tobytes())
    names = [(f"catalogue.{each.name}", each.values) for each in of_items]
    found = _columns(names, reference.trained, reference.served) if len(reference.served) else []
    for name, (queries, _) in (("reference", before), ("window", after)):
        if len(queries) < LEAST:
            why = f"the {name} has {len(queries):,} queries, expected {LEAST} or more"
            return _decided(found), len(after[0]), why
    found += _columns([(each.name, each.values) for each in of_queries], before[0], after[0])
    found.append(_of_vectors(before[0][:, len(of_queries) :], after[0][:, len(of_queries) :]))
    if min(len(before[1]), len(after[1])) >= LEAST:
        found += _columns(ANSWERS, before[1], after[1])
    return _decided(found), len(after[0]), ""


def _measured(records: Sequence[Record], ranks: Mapping[str, float]) -> tuple[Floats, Floats]:
    """The queries' measures, and `ANSWERS` of the answers that can be compared."""
    users, answers = user_numbers(records).tolist() if records else [], []
    own = dict(zip(reversed(users), reversed(records), strict=True)).values()  # the first of each user
    for each in own:
        if each["comparable"]:
            shown = [ranks[item] for item in each["item_ids"][:FIRST] if item in ranks]
            kind = float(each["weak"]) if each["item_ids"] else 2.0
            popularity = float(np.mean(shown)) if shown else np.nan
            answers.append([max(each["scores"], default=np.nan), popularity, kind])
    asked = np.array([each["measures"] for each in own], np.float32)
    return asked, np.array(answers, np.float32)


def _columns(names: Sequence[tuple[str, Sequence[str]]], before: Floats, after: Floats) -> list[Feature]:
    """Compare each column, but for unknown items of which the reference has no share."""
    return [
        _compared(name, values, before[:, n], after[:, n])
        for n, (name, values) in enumerate(names)
        if not name.endswith(UNKNOWN_ITEMS) or not np.isnan(before[:, n]).all()
    ]


def _compared(name: str, values: Sequence[str], before: Floats, after: Floats) -> Feature:
    """Compare the values of a measure; of a category with `values`, by their codes."""
    sides = [np.where(np.isnan(each), -np.inf, each) for each in (before, after)]  # absent: below all others
    if values:
        codes = np.unique(np.concatenate(sides))
        places = [np.searchsorted(codes, each) for each in sides]
        named = {float(n): value for n, value in enumerate(values)} | {-np.inf: "absent"}
        labels = [named.get(code, "others") for code in codes.tolist()]
    else:
        known = before[~np.isnan(before)]
        edges = np.unique(np.quantile(known, np.linspace(0.1, 0.9, 9))) if len(known) else np.zeros(1)
        labels = [f"to {edge:.4g}" for edge in edges]
        if len(known) and edges[0] == known.min():
            edges = np.append(np.nextafter(edges[0], -np.inf), edges)
            labels.insert(0, f"below {edges[1]:.4g}")
        places = [np.where(each == -np.inf, 0, 1 + np.searchsorted(edges, each)) for each in sides]
        labels = ["absent", *labels, f"above {edges[-1]:.4g}"]
    counts = np.stack([np.bincount(each, minlength=len(labels)) for each in places])
    smooth = counts + 0.5
    shares = smooth / smooth.sum(axis=1, keepdims=True)
    psi = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    if values:
        expected = counts.sum(axis=0) * (counts.sum(axis=1).min() / counts.sum())
        rare = expected < EXPECTED  # they count as one
        table = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
        table = table[:, table.sum(axis=0) > 0]
        p, effect = chi2_contingency(table).pvalue if table.shape[1] > 1 else 1.0, None
    else:
        effect, p = ks_2samp(*sides, method="asymp")
    effect = None if effect is None else float(effect)
    return {"name": name, "psi": psi, "p": float(p), "effect": effect, "labels": labels, "shares": shares}


def _of_vectors(before: Floats, after: Floats) -> Feature:
    """The two-sample test by a classifier, of as many vectors of each."""
    rng = np.random.default_rng(0)
    size = min(len(before), len(after)) // 2 * 2
    sides = [each[rng.permutation(len(each))[:size]] for each in (before, after)]
    learned, held_out = (np.concatenate([each[part::2] for each in sides]) for part in (0, 1))
    labels = np.repeat([0, 1], size // 2)
    expand = PolynomialFeatures(include_bias=False)  # products see a change of spread, too
    classifier = LogisticRegression(C=0.01, max_iter=1000)
    model = make_pipeline(StandardScaler(), expand, StandardScaler(), classifier)
    scores = model.fit(learned, labels).decision_function(held_out)
    right = int(((scores > 0) == labels).sum())
    p = float(binomtest(right, len(labels), 0.5, alternative="greater").pvalue)
    by_score = _compared("vectors", (), scores[labels == 0], scores[labels == 1])
    return {**by_score, "p": p, "effect": right / len(labels)}


def _decided(features: list[Feature]) -> list[Feature]:
    """The features, each with its decision by Holm's correction."""
    largest = 0.0  # p after the correction
    for n, each in enumerate(sorted(features, key=lambda each: float(each["p"]))):
        largest = max(largest, each["p"] * (len(features) - n))
        each["drifted"] = largest < ERROR and each["psi"] >= LEAST_PSI
    return features
