"""A page that shows where a model is better or worse than the baselines on the test part, and on what.

It has a table of quality by how frequent the right item is in training, and the queries on which the model
and the best baseline differ most. A run holds the page of its towers, and the export that of the bundle.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.train.data.training_data import Histories, Rows, TrainingData
from twinspire.train.evaluation.baselines import BASELINES
from twinspire.train.evaluation.intervals import clusters_of, interval
from twinspire.train.html_page import html_page
from twinspire.train.markdown import plain, table
from twinspire.train.metrics import Ranked, per_query

PAGE = "quality.html"
FIRST = 10  # places of a ranking that count
GROUPS = 5  # of items that training has seen, with about as many answers each
MOST_BASELINES = 3  # in the table of frequencies
EXAMPLES = 10  # queries in each table
CELL = 120  # characters
EVENTS_SHOWN = 5  # of a history


def quality_page(data: TrainingData, answers: Mapping[str, Ranked], name: str, own: str) -> str:
    """The page as HTML.

    Args:
        answers: rankings of the test queries (`Pairs.by_query`), (Q, K) item rows, best first, -1 where there
            are no more: `""` -> of the model, name -> of each baseline. Others are left out.
        name: of the experiment.
        own: what the model is called, such as "towers".
    """
    queries, relevant = data.parts["test"].by_query()
    labels = {each.name: each.label for each in BASELINES if each.name in answers}
    ndcg = {each: per_query(answers[each], relevant)["ndcg_at_10"].mean() for each in labels}
    best = sorted(labels, key=lambda each: -ndcg[each])[:MOST_BASELINES]
    shown = {own: answers[""], **{labels[each]: answers[each] for each in best}}
    parts = [f"# {plain(name)}, {own}: better and worse than the baselines"]
    parts += ["## Share of answers in the first 10, by interactions of the right item in training"]
    parts += [_by_frequency(data, shown, relevant)]
    if best:
        parts += _examples(data, queries, relevant, (own, answers[""]), (labels[best[0]], answers[best[0]]))
    return html_page("\n\n".join(parts) + "\n", {})


def item_groups(counts: Rows) -> dict[str, npt.NDArray[np.bool_]]:
    """Label -> which answers (A,) are in a group: those of new items, others by frequency, and all.

    Args:
        counts: (A,), interactions of each answer's item in training.
    """
    groups = {"new": counts == 0}
    known = np.sort(counts[counts > 0])
    ends = known[len(known) * np.arange(1, GROUPS + 1) // GROUPS - 1] if len(known) else known
    low = 1
    for high in np.unique(ends).tolist():
        label = f"{low:,} to {high:,}" if low < high else f"{high:,}"
        groups[label] = (counts >= low) & (counts <= high)
        low = high + 1
    groups = {label: which for label, which in groups.items() if which.any()}
    return groups if len(groups) == 1 else {**groups, "all": np.ones(len(counts), bool)}


def _by_frequency(data: TrainingData, rankings: Mapping[str, Ranked], relevant: Sequence[Rows]) -> str:
    """A table of the share of answers among the first ten; an answer is a query and one of its items."""
    query, item = np.repeat(np.arange(len(relevant)), [*map(len, relevant)]), np.concatenate([*relevant])
    groups, clusters = item_groups(data.counts()[item]), clusters_of(data, "test")
    hits = {label: (each[query, :FIRST] == item[:, None]).any(axis=1) for label, each in rankings.items()}
    rows = []
    for group, which in groups.items():
        found = [interval(each[which], clusters[query[which]]) for each in hits.values()]
        shares = [f"{each.mean:.3f} ({each.low:.3f} to {each.high:.3f})" for each in found]
        rows.append([group, f"{which.sum():,}", *shares])
    heads = ["interactions", "answers", *map(plain, hits)]
    return table(heads, rows, "lr" + "r" * len(hits))


def _examples(
    data: TrainingData,
    queries: Rows,
    relevant: Sequence[Rows],
    model: tuple[str, Ranked],
    baseline: tuple[str, Ranked],
) -> list[str]:
    """Tables of the queries on which a model and a baseline, each a label and a ranking, differ most."""
    places = [_first_places(ranked, relevant) for _, ranked in (model, baseline)]
    gain = np.log(places[1] / places[0])  # from place 10 to 1 is as much as from 100 to 10
    order = np.argsort(-gain, kind="stable")
    heads = ["query", "right item", *(f"{label}: place" for label, _ in (model, baseline))]
    heads += [f"{label}: first" for label, _ in (model, baseline)]
    parts = []
    for title, better, place_of_better, rows in (
        (f"{model[0]} better than {baseline[0]}", model[1], places[0], order[gain[order] > 0]),
        (f"{baseline[0]} better than {model[0]}", baseline[1], places[1], order[::-1][gain[order[::-1]] < 0]),
    ):
        lines = []
        for row in rows[:EXAMPLES].tolist():
            right, width = int(better[row, int(place_of_better[row]) - 1]), model[1].shape[1]
            shown = [_text(data.queries, int(queries[row]))]
            shown.append(_text({"item_id": data.item_ids, **data.items}, right))
            shown += [f"{place[row]:.0f}" if place[row] <= width else f"after {width}" for place in places]
            first = [int(ranked[row, 0]) for _, ranked in (model, baseline)]
            shown += [data.item_ids[item] if item >= 0 else "nothing" for item in first]
            lines.append([plain(each, CELL) for each in shown])
        parts += [f"## {plain(title)}", table(heads, lines, "llrrll") if lines else "No query."]
    return parts


def _first_places(ranked: Ranked, relevant: Sequence[Rows]) -> npt.NDArray[np.float64]:
    """(Q,): the place of the first relevant item, from 1 on; K + 1 if there is none."""
    hits = np.stack([np.isin(*each) for each in zip(ranked, relevant, strict=True)])
    return np.asarray(np.where(hits.any(axis=1), hits.argmax(axis=1), ranked.shape[1]) + 1.0)


def _text(values: Mapping[str, Sequence[Any]], row: int) -> str:
    """The values of a record in words, equal ones once; of a history the last items."""
    shown = (
        ", ".join(each.ids[item] for item in each.rows(row)[-EVENTS_SHOWN:])
        if isinstance(each, Histories)
        else each[row]
        for each in values.values()
    )
    return "; ".join(dict.fromkeys(str(value) for value in shown if value is not None))
