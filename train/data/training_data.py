"""A data set in memory: raw values of distinct queries and of items, and pairs of their rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from twinspire.protos.features import FeatureSpec, HistoryFeature, Side, TextFeature, TimeFeature
from twinspire.protos.files.tokenizer import TOKENIZER, open_cut
from twinspire.protos.inputs.query_words import word_numbers
from twinspire.protos.inputs.texts import cut_as_read
from twinspire.train.config import Experiment
from twinspire.train.data import long_arrays
from twinspire.train.data.dataset import Dataset, distinct_rows
from twinspire.train.data.long_arrays import ArrayWriter, bincount, is_ascending, pieces
from twinspire.train.data.ranges import gather_ranges
from twinspire.train.data.source import SPANS
from twinspire.train.data.splits.events import known_events

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
PARTS = ("train", "validation", "test", "cold")
MOST = np.iinfo(np.int32).max  # pairs that arrays of int32 number
# Events, about, of users that are drawn with a seed where there are more:
MOST_READ = 10_000_000  # training events that baselines are fitted to
MOST_TESTED = 200_000  # of each other part
READ_SEED, TESTED_SEED = 1, 0  # different, so that baselines are not fitted to the tested users above all
_FLOATS = {"weight": np.float32, "label": np.float32, "time": np.float64}  # columns of pairs


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and an item.

    Args:
        query: int64 (P,), rows of the distinct queries.
        item: int64 (P,), rows of the items.
        weight: float32 (P,), weight of each pair in the loss.
        label: float32 (P,), above 0 where the pair is positive; None if all are.
        user: int64 (P,), number of the user whose event the pair is; None if the pairs are no events.
        time: float64 (P,), seconds since 1970; None if the data have no times.
        group: int64 (P,), number of the group of the split; None if the pairs are events, or it is not known.
        answers: further items that answer the queries, such as those of training pairs of the same words that
            the split leaves out; None if there are none.
    """

    query: Rows
    item: Rows
    weight: Floats
    label: Floats | None = None
    user: Rows | None = None
    time: Times | None = None
    group: Rows | None = None
    answers: "Positives | None" = None

    def __len__(self) -> int:
        return len(self.query)

    def positive(self) -> "Pairs":
        """The positive pairs."""
        if self.label is None:
            return self
        return replace(self.where(self.is_positive), label=None)

    @cached_property
    def is_positive(self) -> npt.NDArray[np.bool_]:
        """(P,): which pairs are positive."""
        return np.ones(len(self), bool) if self.label is None else self.label > 0

    @property
    def clusters(self) -> Rows | None:
        """(P,): the user of each event, or the group of each other pair; None if it is not known.

        Pairs of one user, or of one group, depend on each other.
        """
        return self.group if self.user is None else self.user

    @property
    def has_both_labels(self) -> bool:
        """Whether some pairs are positive and some are not."""
        return bool(self.is_positive.any() and not self.is_positive.all())

    def of_some_users(self, most: int, seed: int) -> "Pairs":
        """At most `most` pairs, all of each drawn user, or those of one; all pairs that are no events."""
        if self.user is None or len(self) <= most:
            return self
        counts = bincount(self.user, max(int(each.max()) for each in pieces(self.user)) + 1)
        users = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
        drawn = users[: max(1, np.searchsorted(np.cumsum(counts[users]), most, "right"))]
        is_drawn = np.zeros(len(counts), bool)
        is_drawn[drawn] = True
        return self.where(np.concatenate([is_drawn[each] for each in pieces(self.user)]))

    def where(self, kept: npt.NDArray[np.bool_]) -> "Pairs":
        """The pairs where `kept`, bool (P,), is true."""
        columns = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "answers"}
        return replace(self, **{name: each[kept] for name, each in columns.items() if each is not None})

    def with_rows(self, rows: Rows) -> "Pairs":
        """The same pairs of items that have other rows.

        Args:
            rows: int64 (N,), the new row of each item.
        """
        answers = None if self.answers is None else replace(self.answers, items=rows[self.answers.items])
        return replace(self, item=rows[self.item], answers=answers)

    def by_query(self) -> tuple[Rows, list[Rows]]:
        """The distinct queries of the positive pairs, and the items that answer each."""
        pairs = self.positive()
        query, item = pairs.query, pairs.item
        if self.answers is not None:
            queries = np.unique(query)
            place, further = self.answers.of_queries(queries)
            query, item = np.concatenate([query, queries[place]]), np.concatenate([item, further])
        order = np.argsort(query, kind="stable")
        queries, starts = np.unique(query[order], return_index=True)
        return queries, [np.unique(each) for each in np.split(item[order], starts[1:])]


@dataclass(frozen=True)
class Histories(Sequence[list[Any]]):
    """Each query's history, as a range of one array of item rows.

    Args:
        run: int64 (E,), item rows, one user after another, each from the oldest to the newest.
        begin: int64 (Q,), index in `run` of each history's first item.
        end: int64 (Q,), index after its last item.
        ids: item ids by row.
        steps: int64 (E,), number of the session that an event belongs to; it rises along a user's events.
            None if every event is a step of its own, as in all splits but those by session.
        first: int64 (Q,), index of the first item that a tower reads, where histories of positive and of
            negative items share one length; None if that is `begin`.
        times: float64 (E,), seconds since 1970 of the events in `run`; None if no tower reads them.
    """

    run: Rows
    begin: Rows
    end: Rows
    ids: Sequence[str]
    steps: Rows | None = None
    first: Rows | None = None
    times: Times | None = None

    def __len__(self) -> int:
        return len(self.begin)

    def __getitem__(self, query: Any) -> Any:
        """What a tower reads of one query's history, oldest first: item ids, or pairs of id and time."""
        span = slice(self.read_from[query], self.end[query])
        items = [self.ids[row] for row in self.run[span]]
        if self.times is None:
            return items
        return [[*event] for event in zip(items, self.times[span].tolist(), strict=True)]

    @property
    def read_from(self) -> Rows:
        """int64 (Q,): index of the first item that a tower reads."""
        return self.begin if self.first is None else self.first

    def rows(self, query: int) -> Rows:
        """Item rows of one query's history, oldest first."""
        return self.run[self.begin[query] : self.end[query]]

    def steps_between(self, earlier: Rows, later: Rows) -> Rows:
        """The number of steps from one event of `run` to a later one of its user."""
        return later - earlier if self.steps is None else self.steps[later] - self.steps[earlier]

    def of_queries(self, queries: Rows) -> tuple[Rows, Rows]:
        """All (index in `queries`, item) of the histories of the given queries, as two arrays."""
        return gather_ranges(self.run, self.begin[queries], self.end[queries])


@dataclass(frozen=True)
class Positives:
    """Positive items of each query, for masking: query q has `items[starts[q]:starts[q + 1]]`."""

    items: Rows
    starts: Rows

    @classmethod
    def of(cls, pairs: Pairs, queries: int) -> "Positives":
        """The distinct positive pairs, for query rows below `queries`."""
        pairs = pairs.positive()
        query, item = pairs.query, pairs.item
        if not is_ascending(query, strictly=True):
            width = int(item.max(initial=0)) + 1
            query, item = np.divmod(np.unique(query.astype(np.int64) * width + item), width)
        starts = ArrayWriter(query.dtype)
        for row in range(0, queries + 1, long_arrays.PIECE):
            rows = np.arange(row, min(row + long_arrays.PIECE, queries + 1), dtype=query.dtype)
            starts.append(np.searchsorted(query, rows))
        return cls(item, starts.finish())

    def of_queries(self, queries: Rows) -> tuple[Rows, Rows]:
        """All (index in `queries`, item) of the given queries, as two arrays."""
        return gather_ranges(self.items, self.starts[queries], self.starts[queries + 1])


@dataclass(frozen=True)
class Judged:
    """Queries that people have judged, of another distribution than the pairs. Nothing is chosen by them.

    Args:
        ids: of the J queries; two of them may have the same text.
        query: int64 (J,), rows of the distinct queries.
        relevant: for each query the rows of its relevant items, at least one, sorted.
        gains: for each query the gains of these items, above 0.
        items: feature name -> raw values of the served items, such as their whole texts. Judged queries are
            answered over these.
    """

    ids: Sequence[str]
    query: Rows
    relevant: Sequence[Rows]
    gains: Sequence[Rows]
    items: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class TrainingData:
    """Distinct queries, items, and the pairs of each part.

    Args:
        queries: feature name -> raw values of the distinct queries.
        items: feature name -> raw values of the items, as used in training and evaluation.
        parts: part -> its pairs.
        exclude_seen: whether items of a query's history are excluded from its results.
        catalogue_lengths: text feature of the items -> characters of each text that is served, where that is
            another one than in training.
        judged: queries that people have judged, if there are any; their values are among `queries`.
        before_refit: the data without validation pairs in training, if these have them; else None.
        moments: float64 (Q,), the time at which each query is asked: that of its earliest pair, in
            seconds since 1970; None if the data have no times.
        unit: what a group of pairs that are no events is, in the plural.
        query_words: int64 (Q,), a number that queries with the same words share, -1 of a blank text
            (`word_numbers`); None if queries have no text, or have histories.
        chosen_with: the items' values to choose hyperparameters of baselines with; None if these are `items`.
        by_ranking: share of the test pairs that are clicks on what a ranking alone had chosen to show.
        whole_validation: the validation part without the draw of `MOST_TESTED`, to learn from; None if
            `parts` has all of it.
    """

    queries: Mapping[str, Sequence[Any]]
    items: Mapping[str, Sequence[Any]]
    parts: Mapping[str, Pairs]
    query_count: int
    item_count: int
    item_ids: Sequence[str] = ()
    histories: Histories | None = None
    exclude_seen: bool = False
    judged: Judged | None = None
    chosen_with: Mapping[str, Sequence[Any]] | None = None
    catalogue_lengths: Mapping[str, Rows] = field(default_factory=dict)
    moments: Times | None = None
    before_refit: "TrainingData | None" = None
    unit: str = "groups"
    query_words: Rows | None = None
    by_ranking: float = 0.0
    whole_validation: Pairs | None = None

    @property
    def serves_other_texts(self) -> bool:
        """Whether judged queries are answered over other values of the items than the test part."""
        return self.judged is not None and self.judged.items is not self.items

    def as_served(self) -> "TrainingData":
        """The same data with the values of the served items, over which judged queries are answered.

        These values may hold the queries of the other parts word for word. So hyperparameters are still
        chosen with the values of training and evaluation (`chosen_with`).
        """
        assert self.judged is not None
        if not self.serves_other_texts:
            return self
        return replace(self, items=self.judged.items, chosen_with=self.items)

    def as_read_by(self, query: Mapping[str, FeatureSpec]) -> "TrainingData":
        """The same data for towers with these query features; if these read no times, histories have none."""
        histories = self.histories
        reads_times = any(isinstance(each, HistoryFeature) and each.times for each in query.values())
        if histories is None or reads_times:
            return self
        bare = replace(histories, times=None)
        queries = {name: bare if values is histories else values for name, values in self.queries.items()}
        return replace(self, histories=bare, queries=queries)

    def with_validation(self) -> "TrainingData":
        """The data with the validation pairs among those of training; they stay in their own part, too."""
        train, validation = self.parts["train"], self.whole_validation or self.parts["validation"]
        both = {
            each.name: _joined(getattr(train, each.name), getattr(validation, each.name))
            for each in fields(Pairs)
        }
        return replace(self, parts={**self.parts, "train": Pairs(**both)}, before_refit=self)

    def counts(self, negative: bool = False) -> Rows:
        """int64 (N,): positive training pairs of each item; with `negative` the negative ones, too."""
        pairs = self.parts["train"]
        return bincount((pairs if negative else pairs.positive()).item, self.item_count)

    @cached_property
    def some_pairs(self) -> Pairs:
        """Positive training pairs to fit what needs them in memory: all, or those of `MOST_READ` or so."""
        return self.parts["train"].of_some_users(MOST_READ, READ_SEED).positive()

    def seen(self, queries: Rows) -> list[Rows]:
        """For each query the item rows that are excluded from its results."""
        if self.histories is None or not self.exclude_seen:
            return [np.empty(0, np.int64) for _ in queries]
        return [self.histories.rows(query) for query in queries]

    def training_values(self) -> dict[Side, dict[str, list[Any]]]:
        """Side -> feature name -> raw values of the records in training pairs, without histories."""
        train = self.parts["train"]
        items = np.flatnonzero(bincount(train.item, self.item_count))
        found: dict[Side, dict[str, list[Any]]] = {"query": {}, "item": _at(items, self.items)}
        features = {name: each for name, each in self.queries.items() if not isinstance(each, Histories)}
        if features:
            found["query"] = _at(np.unique(train.query), features)
        return found

    def sample(self, side: Side, part: str, count: int, seed: int) -> dict[str, list[Any]]:
        """Feature name -> raw values of up to `count` random records of one part's pairs."""
        pairs = self.parts[part]
        rows = np.unique(pairs.query if side == "query" else pairs.item)
        drawn = np.random.default_rng(seed).permutation(rows)[:count]
        return _at(drawn, self.queries if side == "query" else self.items)


def _at(rows: Rows, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The values of each column in some rows."""
    return {name: [values[row] for row in rows] for name, values in columns.items()}


def training_data_of(
    dataset: Dataset, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]
) -> TrainingData:
    """The data set as arrays; equal queries become one. Long arrays are mapped files (`long_arrays.py`).

    Queries with a history become one only within a part, so that no event of test says when a query of
    validation was asked: with `random`, both have the same history.
    """
    spans = ["begin", "end"] if dataset.history is not None else []
    if any(spec.kind == "negative_history" for spec in query.values()):
        spans = [*SPANS]
    read = [spec.column for spec in query.values() if not isinstance(spec, HistoryFeature | TimeFeature)]
    columns = list(dict.fromkeys([*spans, *(["part"] if spans else []), *read]))
    others = [each.select(columns) for each in (dataset.answers, dataset.judged) if each is not None]
    writers = {part: _PairsWriter(dataset, part) for part in PARTS}
    of_spans = {name: ArrayWriter(np.int64 if len(dataset) > MOST else np.int32) for name in spans}
    earliest, asked, query_count = ArrayWriter(np.float64), list[pl.DataFrame](), 0
    for pairs in dataset.ranges(*columns, "item_row", "weight", "part", "group", "^label$", "^time$"):
        every = pl.concat([pairs.select(columns), *others], how="vertical_relaxed")
        numbers, distinct = distinct_rows(every)
        for name, writer in of_spans.items():
            writer.append(distinct[name].to_numpy())
        asked.append(distinct.select([*dict.fromkeys(read)]))
        numbered = pairs.with_columns(numbers.head(pairs.height).alias("__query"))
        earliest.append(_earliest(numbered, distinct.height))
        for part, part_writer in writers.items():
            part_writer.append(numbered.filter(pl.col("part") == part), query_count)
        query_count += distinct.height
    del pairs, every, numbered
    distinct = pl.concat(asked)
    answers = _answers(dataset, numbers, query_count)
    has_negatives = any(each.has_negatives for each in writers.values())
    whole = {part: each.finish(has_negatives, answers) for part, each in writers.items()}
    parts = {part: each.of_some_users(MOST_TESTED, TESTED_SEED) for part, each in whole.items()}
    parts["train"] = replace(whole["train"], answers=None)
    moments = None if parts["train"].time is None else earliest.finish()
    ids = dataset.items["item_id"].to_list()
    found_spans = {name: writer.finish() for name, writer in of_spans.items()}
    histories = _histories(dataset, dataset.history, found_spans, ids, "")
    if histories is not None and any(
        isinstance(each, HistoryFeature) and each.times for each in query.values()
    ):
        times = dataset.in_history("time").cast(pl.Float64)
        histories = replace(histories, times=times.to_numpy(writable=True))
    negatives = _histories(dataset, dataset.negatives, found_spans, ids, "negative_")
    lengths = [spec.longest for spec in query.values() if isinstance(spec, HistoryFeature)]
    if histories is not None and negatives is not None and len(lengths) == 2:
        histories, negatives = _newest(dataset, histories, negatives, max(lengths))
    items = values_of(dataset.items, item)
    judged = None
    if dataset.judged is not None:
        served = values_of(dataset.items, item, catalogue=True)
        judged = _judged(
            dataset.judged, numbers.tail(dataset.judged.height), items if served == items else served
        )
    queries = values_of(distinct, query, {"history": histories, "negative_history": negatives}, moments)
    texts = texts_of(queries, query) if histories is None and has_text(query) else None
    return TrainingData(
        queries,
        items,
        parts,
        query_count,
        dataset.items.height,
        ids,
        histories,
        histories is not None and dataset.report["repeats"] == "first",
        judged,
        catalogue_lengths=_catalogue_lengths(dataset, item),
        moments=moments,
        unit=dataset.report["unit"],
        query_words=None if texts is None else word_numbers(texts),
        by_ranking=dataset.report.get("by_ranking", 0.0),
        whole_validation=whole["validation"],
    )


def data_of_kept_towers(dataset: Dataset, experiment: Experiment) -> TrainingData:
    """The data set in memory, with the training pairs that the towers of a finished run have learned from.

    Args:
        experiment: of the run: with `[training] refit` the pairs of validation are among them.
    """
    data = training_data_of(dataset, experiment.query, experiment.item)
    return data.with_validation() if experiment.training.refit else data


class _PairsWriter:
    """Collects the pairs of a part from ranges of the data set's pairs."""

    def __init__(self, dataset: Dataset, part: str) -> None:
        self._are_events = dataset.history is not None
        rows = np.int32 if part == "train" and len(dataset) <= MOST else np.int64
        types: dict[str, npt.DTypeLike] = dict.fromkeys(["__query", "item_row", "group"], rows)
        types |= {name: kind for name, kind in _FLOATS.items() if name in dataset.column_names}
        self._writers = {name: ArrayWriter(kind) for name, kind in types.items()}
        self.has_negatives = False

    def append(self, pairs: pl.DataFrame, first_query: int) -> None:
        """Add pairs of the part, whose `__query` counts from `first_query`."""
        self.has_negatives |= "label" in pairs.columns and bool((pairs["label"] <= 0).any())
        moved = pairs.with_columns(pl.col("__query") + first_query)
        for name, writer in self._writers.items():
            writer.append(moved[name].to_numpy())

    def finish(self, has_negatives: bool, answers: "Positives | None") -> Pairs:
        """The pairs; their labels only if some are negative."""
        found = {name: writer.finish() for name, writer in self._writers.items()}
        user, group = (found["group"], None) if self._are_events else (None, found["group"])
        label = found.get("label") if has_negatives else None
        query, item, time = found["__query"], found["item_row"], found.get("time")
        return Pairs(query, item, found["weight"], label, user, time, group, answers)


def _answers(dataset: Dataset, numbers: pl.Series, queries: int) -> Positives | None:
    """The answers of queries held out; `numbers` are the queries of the pairs, the answers and others."""
    if dataset.answers is None:
        return None
    query = numbers.slice(len(dataset), dataset.answers.height).to_numpy()
    item = dataset.answers["item_row"].cast(pl.Int64).to_numpy()
    return Positives.of(Pairs(query, item, np.ones(len(query), np.float32)), queries)


def _joined(first: Any, second: Any) -> Any:
    return None if first is None or second is None else np.concatenate([first, second])


def _earliest(pairs: pl.DataFrame, queries: int) -> Times:
    """(Q,): the time of each query's earliest pair. It is not chosen by labels, which it would reveal."""
    earliest = np.full(queries, np.inf)
    if "time" in pairs.columns:
        split = pairs.filter(pl.col("part").is_in(PARTS))
        np.minimum.at(earliest, split["__query"].to_numpy(), split["time"].to_numpy())
    return earliest


def _catalogue_lengths(dataset: Dataset, item: Mapping[str, FeatureSpec]) -> dict[str, Rows]:
    """Text feature -> characters of each served text, where it is another one than in training."""
    served = {
        name: spec.catalogue_column
        for name, spec in item.items()
        if isinstance(spec, TextFeature) and spec.serves_other_text
    }
    lengths = {name: dataset.items[column].str.len_chars() for name, column in served.items()}
    return {name: each.fill_null(0).cast(pl.Int64).to_numpy() for name, each in lengths.items()}


def _judged(judgements: pl.DataFrame, queries: pl.Series, items: Mapping[str, Sequence[Any]]) -> Judged:
    """Judged queries in the order of their table.

    Args:
        queries: row of the distinct query of each judgement.
    """
    table = judgements.select("query_id", "score", pl.col("item_row").cast(pl.Int64), queries.alias("query"))
    found = table.group_by("query_id", maintain_order=True).agg(
        pl.col("query").first(), pl.col("item_row", "score").sort_by("item_row")
    )
    return Judged(
        found["query_id"].to_list(),
        found["query"].to_numpy(writable=True),
        [rows.to_numpy() for rows in found["item_row"]],
        [scores.to_numpy() for scores in found["score"]],
        items,
    )


def has_text(features: Mapping[str, FeatureSpec]) -> bool:
    """Whether one of the features is a text."""
    return any(isinstance(spec, TextFeature) for spec in features.values())


def _histories(
    dataset: Dataset, run: npt.NDArray[Any] | None, spans: Mapping[str, Rows], ids: Sequence[str], prefix: str
) -> Histories | None:
    """The histories of the distinct queries; None if the data has none, or no feature reads them.

    Args:
        spans: (Q,) each, those of `SPANS` that are read.
    """
    if run is None or f"{prefix}begin" not in spans:
        return None
    begin, end = spans[f"{prefix}begin"], spans[f"{prefix}end"]
    steps = None
    if dataset.report["split"]["by"] == "last_session" and not prefix:
        sessions = dataset.in_history("session")
        steps = (sessions != sessions.shift()).fill_null(True).cast(pl.Int64).cum_sum().to_numpy()
    return Histories(run, begin, end, ids, steps)


def _newest(
    dataset: Dataset, positive: Histories, negative: Histories, length: int
) -> tuple[Histories, Histories]:
    """Histories that together begin with the newest `length` events before each query."""
    events = known_events(dataset.columns("part", "label"), str(dataset.report["split"]["by"]))
    positives = np.concatenate([[0], np.cumsum(events["label"].to_numpy() > 0)])
    known = positive.end - positive.begin + negative.end - negative.begin  # events before each query
    start = positive.begin + negative.begin + np.maximum(0, known - length)
    first = positives[start]
    return replace(positive, first=first), replace(negative, first=start - first)


def values_of(
    table: pl.DataFrame,
    features: Mapping[str, FeatureSpec],
    histories: Mapping[str, Histories | None] = MappingProxyType({}),
    moments: Times | None = None,
    catalogue: bool = False,
) -> dict[str, Sequence[Any]]:
    """Feature name -> raw values of every row.

    Args:
        histories: kind of a history feature -> its values.
        moments: the values of a time feature.
        catalogue: read a text feature's `catalogue_column` where it has one.
    """
    values: dict[str, Sequence[Any]] = {}
    for name, spec in features.items():
        if isinstance(spec, HistoryFeature):
            found = histories[spec.kind]
            assert found is not None  # checked when the data set was built
            values[name] = found
            continue
        if isinstance(spec, TimeFeature):
            assert moments is not None  # checked when the data set was built
            # A judged query has no time, so it is asked now.
            values[name] = [time if np.isfinite(time) else None for time in moments.tolist()]
            continue
        read = spec.as_served() if catalogue and isinstance(spec, TextFeature) else spec
        values[name] = table[read.column].to_list()
    return values


def texts_of(
    values: Mapping[str, Sequence[Any]],
    features: Mapping[str, FeatureSpec],
    cut: bool = False,
    folder: Path | None = None,
) -> list[str]:
    """All texts of each record joined into one string, for text baselines.

    Args:
        cut: leave out what a tower does not read: all beyond the `max_length` of each feature.
        folder: of the features' files. Without it, a text that is read as tokens is cut where `longest` says.
    """
    columns = [
        [*map(_cut(spec, folder), values[name])] if cut else values[name]
        for name, spec in features.items()
        if isinstance(spec, TextFeature)
    ]
    return ["\n".join(parts) for parts in zip(*columns, strict=True)]


def _cut(spec: TextFeature, folder: Path | None) -> Callable[[str], str]:
    """The function from a text to the part of it that a tower reads."""
    longest = spec.longest
    if not spec.reads_tokens or folder is None:
        return lambda text: cut_as_read(text, longest)
    cut = open_cut(folder / TOKENIZER, spec.max_length)
    return lambda text: cut(text[:longest])
