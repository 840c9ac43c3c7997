"""What a service has shown and what users did, beside the data that the champion has learned from.

    [data]
    kind = "service"
    before = "shop.toml"              # whose [data] gives the items, and pairs to mix with the new ones
    log = "served"                    # folder of `serve --served-log`
    events = "events.parquet"         # of `python -m twinspire.serving.events export`, or the store's URL

    [events]
    types = { click = 1, dislike = -1 }

With texts or other features, a pair is a logged query and an item that was clicked after it. With a history,
each event of a user is a pair, as of kind `events`, also where no answer was logged. Where the loss learns
from negative pairs, items that were shown and not clicked are pairs with label 0. Where it does not,
validation and test leave out the clicks on what a ranking alone had chosen to show (`train/data/splits`).
`train/data/impressions.py` says how clicks are attributed, and how pairs are weighted. The weights of the new
pairs have mean 1, so a pair of `before` counts `before_weight` times as much as one of the service.

Data are read up to a cut-off time: `until`, or else the newest answer or recorded event. The identity of the
data is a hash of what was read, and that time. Later answers and events are in the next version.
"""

import os
import subprocess
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import polars as pl

from twinspire.protos import entry_points
from twinspire.protos.errors import ConfigError, DataError
from twinspire.protos.features import CategoryFeature, FeatureSpec, HistoryFeature, TextFeature
from twinspire.protos.inputs.event_types import HISTORY, EventTypes
from twinspire.protos.inputs.texts import normalise
from twinspire.train.config import read_experiment
from twinspire.train.data.columns import column_names
from twinspire.train.data.impressions import (
    HOUR,
    USE,
    USER,
    Period,
    collected,
    log_files,
    read_impressions,
    scan_events,
    scan_log,
    time_text,
)
from twinspire.train.data.item_table import ItemTable
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import (
    BY_RANKING,
    BY_TIME,
    Source,
    SourceConfig,
    SourceContext,
    Tables,
    filter_events,
    share_of_repeats,
    sort_events,
    source_config,
)
from twinspire.train.data.table_files import find_data_file, identity_of
from twinspire.train.fingerprint import fingerprint

LOGGED = "logged "  # before the name of a column that is read from the query of an answer


@dataclass(frozen=True)
class ServiceData(SourceConfig):
    """`[data]` of kind `service`.

    Paths are relative to the TOML file.

    Args:
        log: folder of the served log.
        events: file of Parquet with the columns of an export, or URL of the store of events.
        before: TOML file with the data that the new pairs are mixed with.
        before_weight: of a pair of these data, relative to the mean of the new ones; with 0 they give the
            items alone.
        items: table of items in place of those of `before`, with `item_id` and the columns of the features;
            pairs of other items are left out and counted.
        display: columns of the items that an answer shows beside an id; by default those of `before`.
        window_hours: after an answer, in which an event counts for it.
        since, until: ISO dates or times in UTC; earlier answers and events are left out, and later ones wait.
        positive_from: an event with a value is positive if that is at least this.
    """

    kind: Literal["service"]
    log: str
    events: str
    before: str = ""
    before_weight: float = 1.0
    items: str = ""
    display: tuple[str, ...] = ()
    window_hours: float = 24.0
    since: str = ""
    until: str = ""
    positive_from: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.before and not self.items:
            raise ValueError("items: expected a table of items, or in before the data that have one")
        if self.before_weight < 0:
            raise ValueError(f"before_weight: expected at least 0, got {self.before_weight:g}")
        if self.window_hours <= 0:
            raise ValueError(f"window_hours: expected more than 0, got {self.window_hours:g}")
        for key in ("since", "until"):
            try:
                _seconds(getattr(self, key))
            except ValueError:
                given = getattr(self, key)
                raise ValueError(f'{key}: expected a date such as "2026-12-01", got {given!r}') from None

    def open(self, context: SourceContext) -> Source:
        """The log, and the events of this moment; the export of a store lasts as long as the source."""
        source = ServiceSource(self, context, _events_file(self.events, context))
        if "://" in self.events:
            weakref.finalize(source, source.events.unlink, missing_ok=True)
        return source

    def item_table(self) -> ItemTable:
        """A table with `item_id` and columns that need no casts."""
        return ItemTable(file=self.items)


@dataclass(frozen=True)
class ServiceSource:
    """Served log, events and the data of before.

    Args:
        events: file of Parquet.
    """

    data: ServiceData
    context: SourceContext
    events: Path

    @cached_property
    def folder(self) -> Path:
        """Of the served log."""
        return find_data_file(self.context.base, self.data.log)

    @cached_property
    def before(self) -> tuple[SourceConfig, Source] | None:
        """The settings and the source of the data of before."""
        if not self.data.before:
            return None
        path = find_data_file(self.context.base, self.data.before)
        experiment = read_experiment(path)
        found = source_config(experiment.data)
        return found, found.open(replace(self.context, base=path.parent, events=experiment.events))

    @cached_property
    def types(self) -> EventTypes:
        """Which events are positive, and which negative."""
        bound = self.data.positive_from
        return EventTypes(self.context.events.types, bound is not None, bound)

    @cached_property
    def period(self) -> Period:
        """The times of the answers and events to read; later ones are left for the next version."""
        data = self.data
        cutoff = _seconds(data.until)
        if cutoff is None:
            newest = collected(scan_log(log_files(self.folder)).select(pl.col("time").max()), self.folder)
            every = Period(0.0, float("inf"), 0.0)
            recorded = scan_events(self.events, EventTypes(), every).select(pl.col("recorded").max())
            cutoff = max(newest.item() or 0.0, collected(recorded, self.events).item() or 0.0)
        return Period(_seconds(data.since) or 0.0, cutoff, data.window_hours * HOUR)

    def identity(self) -> str:
        """Hash of the files of the log, the events that count, and the data of before; and the cut-off time.

        Raises:
            DataError: a file is missing or damaged.
        """
        period, before = self.period, self.before
        files = log_files(self.folder, period.closed, period.since)
        digest = sha256(repr([(path.name, path.stat().st_size) for path in files]).encode())
        counted = scan_events(self.events, self.types, period)
        rows = collected(counted.select(pl.struct(pl.all()).hash().sum(), pl.len()), self.events).row(0)
        digest.update(repr((rows, self.types, self.context.learns_from_negatives)).encode())
        digest.update((identity_of([self._items]) if self.data.items else "").encode())
        if before:
            digest.update(f"{before[1].identity()} {fingerprint(before[0])}".encode())
        return f"{digest.hexdigest()} {time_text(period.cutoff)}"

    def read(self) -> Tables:
        """Items, and pairs of the service and of before.

        Raises:
            DataError: a file or a value is invalid, or the queries lack what the towers read.
        """
        old = self.before[1].read() if self.before else None
        if old is not None and old.items_from_events is not None:
            raise DataError(f"{self.data.before}: data.items: expected a table of items, got none")
        by_user = any(isinstance(spec, HistoryFeature) for spec in self.context.query.values())
        by_user |= old is not None and old.users is not None
        items, display = self._items_of(old)
        period = self.period
        events = collected(scan_events(self.events, self.types, period), self.events)
        shown, report = read_impressions(self.folder, events, period, may_be_empty=by_user)
        dropped = dict(old.dropped) if old else {}
        new, lacking = self._with_queries(shown, not by_user)
        if by_user:
            new = self._with_events(new, events, period)
        elif not self.context.learns_from_negatives:
            new = new.filter(pl.col("label") > 0).with_columns((~pl.col("explored")).alias(BY_RANKING))
        positive = new.filter(pl.col("label") > 0)
        if positive.is_empty():
            expected = "no positive event" if by_user else "no positive event follows a logged answer"
            raise DataError(
                f"{self.events}: {expected}; see [events] types, and the request_id of the events"
            )
        new = new.with_columns(pl.col("weight") / positive["weight"].mean())
        known = items.select("item_id").with_row_index("item_row")
        kept = new.join(known, on="item_id", how="inner", maintain_order="left")
        dropped["answer without the texts of its query"] = lacking
        dropped["pair of the service with an unknown item"] = new.height - kept.height
        pairs, mixed = self._mixed(kept, old, known, by_user, dropped)
        report |= mixed
        origin = {"service": report, "notes": _notes(report), "before": dict(old.origin) if old else {}}
        dropped = {reason: count for reason, count in dropped.items() if count}
        tables = Tables(items, Partitions.of(pairs), display, dropped, origin=origin, unit="queries")
        if not by_user:
            return tables
        repeats = old.repeats if old is not None and old.users is not None else "keep"
        sorted_pairs, users = sort_events([pairs])
        filtered, counts = filter_events(sorted_pairs, repeats)
        return replace(
            tables,
            pairs=filtered,
            dropped={**dropped, **counts},
            users=users,
            order=BY_TIME,
            repeats=repeats,
            share_of_repeats=share_of_repeats(sorted_pairs),
        )

    @property
    def _items(self) -> Path:
        return find_data_file(self.context.base, self.data.items)

    def _items_of(self, old: Tables | None) -> tuple[pl.DataFrame, tuple[str, ...]]:
        """The items, and the names of their display fields."""
        if not self.data.items:
            assert old is not None  # one of both is set
            return old.items, self.data.display or old.display
        display = self.data.display or (old.display if old else ())
        return self.context.read_items(self.data.item_table(), display)[0], display

    @cached_property
    def columns(self) -> list[str]:
        """The columns of the query's features; in the frames below `LOGGED` stands before each."""
        return list(dict.fromkeys(column_names(self.context.query)))

    def _logged(self, kind: type) -> list[str]:
        """The names of the columns that features of a kind read."""
        query = self.context.query
        found = column_names({name: spec for name, spec in query.items() if isinstance(spec, kind)})
        return [LOGGED + column for column in found]

    def _with_queries(self, shown: pl.DataFrame, is_required: bool) -> tuple[pl.DataFrame, int]:
        """Impressions with the columns of the query, and the number of answers left out for want of texts."""
        query = {name: spec for name, spec in self.context.query.items() if column_names({name: spec})}
        kinds = {name: _dtype(spec) for name, spec in query.items()}
        try:
            values = shown["query"].fill_null("{}").str.json_decode(pl.Struct(kinds))
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{self.folder}: column 'query': expected JSON with {kinds}: {error}") from None
        for name, spec in query.items():
            (column, *_), found = column_names({name: spec}), values.struct.field(name)
            found = found.fill_null([]) if isinstance(found.dtype, pl.List) else found
            shown = shown.with_columns(found.alias(LOGGED + column))
        texts = self._logged(TextFeature)
        if not texts or not is_required:
            return shown, 0
        whole = shown.drop_nulls(texts)
        if whole.is_empty():
            raise DataError(
                f"{self.folder}: column 'query': expected a text in each of {texts}, and no answer has them; "
                "the service writes them with `serve --served-log-texts`"
            )
        return whole, shown["request_id"].n_unique() - whole["request_id"].n_unique()

    def _with_events(self, shown: pl.DataFrame, events: pl.DataFrame, period: Period) -> pl.DataFrame:
        """The events of users as pairs, with query columns and weights of the answers that they followed.

        An event after the attribution window has weight 1. Impressions without any event become negative
        pairs of users with some event, where the loss learns from them. Then events of answers whose window
        is open wait with these, so that clicks are not counted before what was not clicked.
        """
        recorded = events.select("request_id", "item_id").unique()
        if self.context.learns_from_negatives:
            waits = (pl.col("request_id") != "") & (pl.col("time") > period.closed)
            events = events.filter(~waits)
        logged = [LOGGED + column for column in self.columns]
        given = shown.filter("acted").select("request_id", "item_id", "weight", "explored", *logged)
        found = events.join(given, on=["request_id", "item_id"], how="left", maintain_order="left")
        found = found.with_columns(
            pl.col("weight").fill_null(1.0),
            (pl.col(USE) == HISTORY).cast(pl.Float32).alias("label"),
            pl.col(USER).alias("user"),
            ((pl.col("request_id") != "") & ~pl.col("explored").fill_null(False)).alias(BY_RANKING),
        )
        names = ["time", "user", "item_id", "label", "weight", *logged]
        if self.context.learns_from_negatives:
            known = shown["user"].is_in(events[USER].unique().implode()).fill_null(False)
            shown = shown.filter(known).join(recorded, on=["request_id", "item_id"], how="anti")
            found = pl.concat([found.select(names), shown.select(names)])
        else:
            names.append(BY_RANKING)
        lists = [name for name in logged if isinstance(found.schema[name], pl.List)]
        found = found.with_columns(
            pl.col(self._logged(TextFeature)).fill_null(""), pl.col(lists).fill_null([])
        )
        users = [name for name in logged if name == LOGGED + USER]  # the column of users in data of events
        return found.select(names).with_columns(pl.col(users).fill_null(pl.col("user")))

    def _mixed(
        self,
        new: pl.DataFrame,
        old: Tables | None,
        known: pl.DataFrame,
        by_user: bool,
        dropped: dict[str, int],
    ) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Pairs of the service and of before, and what of each there is."""
        texts = self._logged(TextFeature)
        group = new["user"] if by_user else new["user"].fill_null(new["request_id"])
        if texts and not by_user:
            group = pl.Series([normalise("\n".join(row)) for row in new.select(texts).iter_rows()])
        has_negatives = self.context.learns_from_negatives
        has_label = by_user or has_negatives or (old is not None and "label" in old.pairs.columns)
        label = ["label"] if has_label else []
        by_ranking = [] if has_negatives else [BY_RANKING]  # labels are predicted of any item that was shown
        names = [*self.columns, "item_row", "weight", "group", "time", *label, *by_ranking]
        weight = pl.col("weight").cast(pl.Float32)
        made = new.with_columns(weight, group.cast(pl.String).alias("group")).select(
            *(pl.col(LOGGED + column).alias(column) for column in self.columns), *names[len(self.columns) :]
        )
        mixed: dict[str, Any] = {"pairs": made.height, "before_pairs": 0, "before_share": 0.0}
        if old is None or self.data.before_weight == 0:
            return made, mixed
        pairs = old.pairs.collect()
        pairs = pairs.with_columns(old.items["item_id"].gather(pairs["item_row"]).alias("item_id"))
        if old.users is not None:
            pairs = pairs.with_columns(old.users.gather(pairs["group"]).alias("group"))
        earlier = pairs.drop("item_row").join(known, on="item_id", how="inner", maintain_order="left")
        dropped["pair of before with an unknown item"] = pairs.height - earlier.height
        if "time" not in earlier.columns:  # all are a second older than what the service has seen
            earlier = earlier.with_columns(time=pl.lit(made["time"].min(), pl.Float64) - 1.0)
        if has_label and "label" not in earlier.columns:
            earlier = earlier.with_columns(pl.lit(1.0, pl.Float32).alias("label"))
        earlier = earlier.with_columns(weight * self.data.before_weight, pl.lit(False).alias(BY_RANKING))
        earlier = earlier.select(names)
        first, second = (float(each["weight"].sum()) for each in (earlier, made))
        mixed |= {"before_pairs": earlier.height, "before_share": first / (first + second)}
        return pl.concat([earlier, made], how="vertical_relaxed"), mixed


def _dtype(spec: FeatureSpec) -> Any:
    """The type of a column that a query feature reads, as `columns.features_of` gives it."""
    if isinstance(spec, TextFeature | CategoryFeature):
        is_list = isinstance(spec, CategoryFeature) and spec.multi
        return pl.List(pl.String) if is_list else pl.String
    return pl.Float64


def _seconds(date: str) -> float | None:
    """Seconds since 1970 of an ISO date or time, in UTC unless it has a zone; None if it is empty."""
    if not date:
        return None
    time = datetime.fromisoformat(date)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _events_file(name: str, context: SourceContext) -> Path:
    """The file of events; of a store what it holds now, which a process of the service's code writes.

    Raises:
        DataError: the file is missing.
        ConfigError: the store cannot be read.
    """
    if "://" not in name:
        path = find_data_file(context.base, name)
        identity_of([path])  # refuses a missing file
        return path
    output = context.cache / "service" / f"events-{uuid4().hex}.parquet"
    output.parent.mkdir(parents=True, exist_ok=True)
    command = entry_points.command(entry_points.EVENTS, "export", str(output))
    environment = {**os.environ, entry_points.EVENTS_VARIABLE: name}  # all users see a command line
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise ConfigError(f"data.events: {said.removeprefix('error: ')}")
    return output


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Lines about the data of the service, for the page of the data set."""
    bundles = ", ".join(f"{name[:12]} {count:,}" for name, count in report["bundles"].items())
    examined = ", ".join(f"{each:.2f}" for each in report["examination"][:10])
    return [
        f"service: {report['answers']:,} answers of {report['first']} to {report['last']}, with "
        f"{report['clicks']:,} clicks on {report['impressions']:,} hits; {report['waiting']:,} answers wait, "
        f"as their window was open at {report['cutoff']}",
        f"service: answers by bundle: {bundles}; {report['explored']:.1%} explored",
        f"service: examination of positions 1 to {min(10, len(report['examination']))}: {examined}",
        f"service: {report['events_of_answers']:,} events follow a logged answer, "
        f"{report['events_of_others']:,} do not",
        f"weights: {report['pairs']:,} pairs of the service {1 - report['before_share']:.1%}, "
        f"{report['before_pairs']:,} of before {report['before_share']:.1%}",
    ]
