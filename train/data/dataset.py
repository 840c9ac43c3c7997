"""The data set of an experiment: tables on disk, built once from a source and split.

    dataset = prepare(read_experiment(path), path.parent)
    dataset.items, dataset.part("train"), dataset.split_hash

The folder `<cache>/<fingerprint>` holds `items.parquet`, `pairs.parquet` and `dataset.json`, and, if
pairs are events of users, `history.parquet`: the items of each user in order, one user after another. The
history of a pair is `history[begin:end]`. `negatives.parquet` holds the items of negative events likewise.
Judged queries are in `judged.parquet`, and `answers.parquet` holds all answers of the queries that a split by
`group` holds out.

The fingerprint covers the configuration of data, split, filters and judged queries, the columns that features
read, the identity of the source's data, and the code and libraries of this stage. While it
is unchanged, the folder is loaded and the source is not read, also by an experiment of another name.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from polars import selectors
from rich.console import Console

from twinspire.protos.bundle import whole_file
from twinspire.protos.cli import show_warnings
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError
from twinspire.protos.features import HistoryFeature, TextFeature, TimeFeature
from twinspire.protos.files import atomic_directory
from twinspire.protos.files.draft_file import sync
from twinspire.train import paths
from twinspire.train.config import Experiment
from twinspire.train.config.data import JudgedConfig
from twinspire.train.config.losses import learns_from_negatives
from twinspire.train.data.columns import column_names
from twinspire.train.data.filters import filter_kinds, with_filter_columns
from twinspire.train.data.judged import judged_files, read_judged
from twinspire.train.data.long_arrays import ArrayWriter
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import (
    BY_RANKING,
    BY_TIME,
    LOG_ROW,
    POSITIVE,
    SPANS,
    Source,
    SourceContext,
    Tables,
    sample_groups,
    source_config,
)
from twinspire.train.data.splits.assign import assign_parts
from twinspire.train.data.splits.events import known_events
from twinspire.train.data.splits.known_queries import REPEATED_QUERIES, leave_out_known_queries, words_of
from twinspire.train.data.splits.parts import COLD, PARTS, SHOWN, part_sizes, unusual_shares
from twinspire.train.data.splits.split_hash import split_hash
from twinspire.train.data.table_files import identity_of
from twinspire.train.fingerprint import code_fingerprint
from twinspire.train.progress import progress_bar

CACHE = paths.CACHE / "data"
DESCRIBED = 100_000  # pairs whose columns tell MLflow the schema
RANGE = 2_000_000  # pairs of events that are in memory at a time, about
DIGEST_LENGTH = 12  # characters of the fingerprint in the name of a folder, and in MLflow
WARN_LEFT_OUT_ABOVE = 0.2  # share of the training pairs
ITEMS = "items.parquet"
PAIRS = "pairs.parquet"
HISTORY = "history.parquet"
NEGATIVES = "negatives.parquet"
JUDGED = "judged.parquet"
ANSWERS = "answers.parquet"
REPORT = "dataset.json"


@dataclass(frozen=True)
class Dataset:
    """Items and (query, item) pairs, split.

    Args:
        items: `item_id` first, then the columns of features and display fields.
        table: the pairs, which are read when they are needed: columns of the query's features, `item_row`,
            `weight`, `group` (a number in place of a key), maybe `time` and `label`, `part`; of events also
            `label`, `position`, `user_start`, `begin`, `end`, `negative_begin`, `negative_end`, maybe
            `session`.
        report: counts, reasons of dropped rows, settings, and the fingerprint.
        history: of events, int32 (H,), rows of items; that of a pair is `history[begin:end]`.
        negatives: of events, int32 (H,), rows of items; the negative history of a pair is
            `negatives[negative_begin:negative_end]`.
        judged: a row for each judgement of a relevant item: `query_id`, `item_row`, `score`, and the columns
            of the query's features; None if there are no judged queries.
        answers: `item_row` and the columns of the query's features, of the queries that a split by `group`
            holds out (`leave_out_known_queries`); None of other data.
    """

    folder: Path
    items: pl.DataFrame
    table: pl.LazyFrame
    report: dict[str, Any]
    history: npt.NDArray[np.int32] | None = None
    judged: pl.DataFrame | None = None
    negatives: npt.NDArray[np.int32] | None = None
    answers: pl.DataFrame | None = None

    @property
    def pairs(self) -> pl.DataFrame:
        """All columns of all pairs."""
        return self._read(self.table)

    @property
    def column_names(self) -> list[str]:
        """The names of all columns of the pairs."""
        return self.table.collect_schema().names()

    def columns(self, *names: str) -> pl.DataFrame:
        """Some columns of the pairs; names may repeat, and "^name$" is a column that may be missing."""
        return self._read(self.table.select([*dict.fromkeys(names)]))

    def __len__(self) -> int:
        return int(self._read(self.table.select(pl.len())).item())

    def ranges(self, *names: str) -> Iterator[pl.DataFrame]:
        """Some columns of the pairs as in `columns`, in order; of events some of the users at a time.

        Users whose histories begin at the same place, because some have none, come together.
        """
        rows = self.table.select([*dict.fromkeys([*names, *(["begin"] if self.history is not None else [])])])
        if self.history is None:
            yield self._read(rows)
            return
        left = self._read(rows.head(0))
        for at in range(0, len(self), RANGE):
            pairs = pl.concat([left, self._read(rows.slice(at, RANGE))])
            begin = pairs["begin"]
            cut = pairs.height if at + RANGE >= len(self) else int(begin.search_sorted(begin[-1], "left"))
            left = pairs.slice(cut)
            if cut:
                yield pairs.head(cut)

    def part(self, name: Literal["train", "validation", "test", "cold"]) -> pl.DataFrame:
        """The pairs of one part of the split."""
        return self._read(self.table.filter(pl.col("part") == name))

    def _read(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Some of the pairs.

        Raises:
            DataError: the file is damaged.
        """
        try:
            return rows.collect()
        except (OSError, pl.exceptions.ComputeError) as error:
            raise _damaged(self.folder, error) from None

    def in_history(self, column: str) -> pl.Series:
        """A column of the events that `history` holds, in its order."""
        events = self.columns("part", "label", column)
        return known_events(events, str(self.report["split"]["by"])).filter(POSITIVE)[column]

    def for_mlflow(self) -> Any:
        """The `PolarsDataset` for `mlflow.log_input`; its digest begins the data set's fingerprint."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.polars_dataset import PolarsDataset

        report, added = self.report, ["item_row", "part", "user_start", *SPANS]
        source = CodeDatasetSource({"kind": report["kind"], "origin": json.dumps(report["origin"])})
        # MLflow warns of unsigned numbers.
        first = self._read(self.table.head(DESCRIBED).drop(added, strict=False).cast({"group": pl.Int64}))
        rows = len(self)

        class FirstRows(PolarsDataset):
            """The first rows, which tell the schema, with the profile of all."""

            @property
            def profile(self) -> PolarsDataset.PolarsDatasetProfile:
                return {"num_rows": rows, "num_elements": rows * first.width}

        return FirstRows(first, source, name=report["name"], digest=report["fingerprint"][:DIGEST_LENGTH])

    def write_tables(self, folder: Path) -> None:
        """Write `items.parquet` and `pairs.parquet`, which has item ids, as plain tables into a folder.

        Raises:
            DataError: they cannot be written.
        """
        inner = ["item_row", "position", "user_start", *SPANS]
        pairs = self.pairs
        ids = self.items["item_id"].gather(pairs["item_row"])
        plain = pairs.with_columns(
            pl.col("part").cast(pl.String), pl.col("group").cast(pl.Int64), item_id=ids
        )
        pairs = plain.drop(inner, strict=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, frame in ((ITEMS, self.items.select(pl.exclude("^__.*$"))), (PAIRS, pairs)):
                with whole_file(folder / name) as file:
                    frame.write_parquet(file)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{folder}: the tables cannot be written: {error}") from None

    @property
    def split_hash(self) -> str:
        """sha256 over the parts and their pairs."""
        return str(self.report["split_hash"])


def prepare(
    experiment: Experiment,
    base: Path,
    cache: Path = CACHE,
    refresh: bool = False,
    console: Console | None = None,
) -> Dataset:
    """The data set of an experiment, built unless it is in the cache.

    Args:
        base: folder of the TOML file; paths in it are relative to this folder.
        cache: parent of the folders of data sets.
        refresh: download and read the source again.
        console: for progress; standard error if None.

    Raises:
        DataError: data are missing or invalid; the text names file, row and column.
    """
    console = console or Console(stderr=True)
    source = open_source(experiment, base, cache, refresh, console)
    config = _judged(experiment, base)
    identity = _identity(source, config, base)
    fingerprint = _fingerprint(experiment, config, identity)
    folder = cache / fingerprint[:DIGEST_LENGTH]
    if not refresh and folder.is_dir():
        stored = load(folder)
        return dataclasses.replace(stored, report={**stored.report, "name": experiment.name})
    tables = sample_groups(source.read(), experiment.data.max_items, experiment.split.seed)
    judged, left_out = None, dict[str, int]()
    if config is not None:
        judged, left_out = read_judged(base, config, experiment.query, tables.items["item_id"])
    if _identity(source, config, base) != identity:
        raise DataError(
            f"{experiment.name}: the data ({experiment.data.kind}) changed while they were read; "
            "run the command again"
        )
    _check_columns(experiment, tables)
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("splitting", total=3, note="")
        pairs = assign_parts(tables.pairs, experiment.split, tables.users)
        tables, pairs, by_ranking = _without_marks(tables, pairs)
        show_warnings(unusual_shares(pairs, experiment.split), console)
        tables, pairs, answers = _without_known_queries(experiment, tables, pairs, console)
        tables, pairs = _with_training_values(tables, pairs)
        filtered = with_filter_columns(tables.items, experiment.data.kind, experiment.filter, experiment.item)
        tables = dataclasses.replace(tables, items=filtered)
        progress.update(task, description="hashing the split", completed=1)
        report = _report(experiment, tables, pairs, fingerprint) | by_ranking
        if config is not None and judged is not None:
            report |= _report_of_judged(config, judged, pairs, _query_texts(experiment))
            report["dropped"] |= {f"judged: {reason}": count for reason, count in left_out.items()}
        progress.update(task, description="writing", completed=2)
        frames = {ITEMS: tables.items.lazy(), **_written_pairs(pairs, experiment.split.by, tables.users)}
        frames |= {} if judged is None else {JUDGED: judged.lazy()}
        if answers is not None:
            frames[ANSWERS], report["answers"] = answers.lazy(), answers.height
        _write(folder, frames, report, refresh)
    return load(folder)


def _written_pairs(pairs: Partitions, by: str, users: pl.Series | None) -> dict[str, pl.LazyFrame]:
    """The tables of pairs, with numbers in place of keys of groups, and of events those of their items."""
    if users is None:
        number = pl.col("group").rank("dense").cast(pl.UInt32) - 1
        return {PAIRS: pairs.map(lambda each: each.with_columns(number)).lazy()}
    before = 0  # users of the partitions before

    def numbered(part: pl.DataFrame) -> pl.DataFrame:
        nonlocal before
        result = part.with_columns(pl.col("group").rle_id() + before, pl.col(*SPANS).cast(pl.UInt32))
        before += part["group"].n_unique()
        return result

    known = known_events(pairs.lazy().select("part", "label", "item_row"), by)
    return {
        PAIRS: pairs.map(numbered).lazy(),
        HISTORY: known.filter(POSITIVE).select("item_row"),
        NEGATIVES: known.filter(~POSITIVE).select("item_row"),
    }


def dense_ranks(table: pl.DataFrame) -> pl.Series:
    """Int64 (R,), from 0: the place of each row among the distinct rows, sorted column by column."""
    key = pl.struct(pl.all())  # can be ranked, whatever its columns are
    numbers = table.with_columns(selectors.enum().to_physical())
    if table.width and all(each.dtype.is_unsigned_integer() and not each.null_count() for each in numbers):
        widths = {each.name: int(each.max() or 0) + 1 for each in numbers}  # type: ignore[arg-type]
        if math.prod(widths.values()) < 2**63:  # one number for a row takes less memory
            key = pl.lit(0, pl.Int64)
            for name, width in widths.items():
                key = key * width + pl.col(name).cast(pl.Int64)
    return numbers.select(key.rank("dense").cast(pl.Int64) - 1).to_series()


def distinct_rows(table: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """For each row the number of its distinct row, and the distinct rows, sorted column by column."""
    numbers = dense_ranks(table)
    first = pl.DataFrame({"row": numbers}).with_row_index().group_by("row").agg(pl.col("index").first())
    return numbers, table[first.sort("row")["index"]]


def load(folder: Path) -> Dataset:
    """The data set in `folder`; it can be read also when the folder has been replaced or removed since.

    Raises:
        DataError: a file is missing or damaged. Of the pairs only the columns are looked at.
    """
    try:
        report = parse_json((folder / REPORT).read_bytes())
        items = pl.read_parquet(folder / ITEMS)
        with (folder / PAIRS).open("rb") as file:
            pairs = pl.scan_parquet(file)  # holds the open file
        pairs.collect_schema()
        history = negatives = None
        if "users" in report:
            history, negatives = (_rows(folder / name) for name in (HISTORY, NEGATIVES))
        judged = pl.read_parquet(folder / JUDGED) if "judged" in report else None
        answers = pl.read_parquet(folder / ANSWERS) if "answers" in report else None
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise _damaged(folder, error) from None
    return Dataset(folder, items, pairs, report, history, judged, negatives, answers)


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(f"{folder}: damaged ({error}); delete it to build it again")


def _rows(path: Path) -> npt.NDArray[np.int32]:
    """The only column of a file."""
    with path.open("rb") as file:
        table = pl.scan_parquet(file)  # holds the open file
    writer = ArrayWriter(np.int32)
    for at in range(0, table.select(pl.len()).collect().item(), RANGE):
        writer.append(table.slice(at, RANGE).collect().to_series().to_numpy())
    return writer.finish()


def open_source(experiment: Experiment, base: Path, cache: Path, refresh: bool, console: Console) -> Source:
    """The source of an experiment's data; the arguments are those of `prepare`.

    Raises:
        DataError: the data cannot be downloaded.
    """
    return source_config(experiment.data).open(
        SourceContext(
            base,
            cache,
            experiment.query,
            experiment.item,
            experiment.filter,
            refresh,
            console,
            experiment.events,
            learns_from_negatives(experiment.loss),
        )
    )


def _judged(experiment: Experiment, base: Path) -> JudgedConfig | None:
    """Where the judged queries are: in the folder of `[judged]`, or else with the data."""
    return experiment.judged or source_config(experiment.data).judged_of(base)


def _identity(source: Source, judged: JudgedConfig | None, base: Path) -> str:
    """Hash of the data, and of the judged queries if there are any."""
    return source.identity() + (f" {identity_of(judged_files(base, judged))}" if judged else "")


def _fingerprint(experiment: Experiment, judged: JudgedConfig | None, identity: str) -> str:
    """sha256 over everything that determines the tables."""
    digest = hashlib.sha256(identity.encode())
    columns = {
        side: {name: column_names({name: spec}) for name, spec in getattr(experiment, side).items()}
        for side in ("query", "item")
    }
    parts: list[Any] = [experiment.data, experiment.split, experiment.filter]
    parts += [judged] if judged else []
    sections = [*(dataclasses.asdict(part) for part in parts), columns]
    digest.update(json.dumps(sections, sort_keys=True).encode())
    digest.update(code_fingerprint(__name__).encode())
    return digest.hexdigest()


def _without_known_queries(
    experiment: Experiment, tables: Tables, pairs: Partitions, console: Console
) -> tuple[Tables, Partitions, pl.DataFrame | None]:
    """The tables with counts of what `leave_out_known_queries` leaves out, the other pairs, and answers."""
    if tables.users is not None:
        return tables, pairs, None
    texts, columns = _query_texts(experiment), column_names(experiment.query)
    kept, answers, left_out = leave_out_known_queries(pairs.collect(), experiment.split, texts, columns)
    of_training = left_out.get("train", 0) / part_sizes(pairs.select("part"))["train"][0]
    if of_training > WARN_LEFT_OUT_ABOVE:
        repeated = (
            f"{of_training:.0%} of the training pairs are left out, because their query is also one of test "
            f"or validation; {REPEATED_QUERIES}"
        )
        show_warnings([repeated], console)
    dropped = {f"{part} pair with the query of a pair held out": count for part, count in left_out.items()}
    tables = dataclasses.replace(tables, dropped={**tables.dropped, **dropped})
    return tables, Partitions.of(kept), answers


def _query_texts(experiment: Experiment) -> list[str]:
    """The columns of the query's texts."""
    return [spec.column for spec in experiment.query.values() if isinstance(spec, TextFeature)]


def _without_marks(tables: Tables, pairs: Partitions) -> tuple[Tables, Partitions, dict[str, float]]:
    """The tables with a count of the part `SHOWN`, the pairs without `BY_RANKING`, and its share of test."""
    if BY_RANKING not in pairs.columns:
        return tables, pairs, {}
    marks = pl.concat(pairs.select("part", BY_RANKING))
    shown = int((marks["part"] == SHOWN).sum())
    counted = {"validation or test pair, clicked where a ranking alone had chosen it": shown} if shown else {}
    share = float(marks.filter(pl.col("part") == "test")[BY_RANKING].mean())  # type: ignore[arg-type]
    tables = dataclasses.replace(tables, dropped={**tables.dropped, **counted})
    return tables, pairs.map(lambda each: each.drop(BY_RANKING)), {"by_ranking": share}


def _with_training_values(tables: Tables, pairs: Partitions) -> tuple[Tables, Partitions]:
    """The tables with items whose values come from training pairs alone, where events give them any."""
    if tables.items_from_events is None:
        return tables, pairs
    rows = [each.filter(pl.col("part") == "train")[LOG_ROW] for each in pairs.select("part", LOG_ROW)]
    found, changed = tables.items_from_events(pl.concat(rows))
    items = tables.items.select("item_id").join(found, on="item_id", how="left", maintain_order="left")
    changed = {**tables.changed, **changed}
    tables = dataclasses.replace(tables, items=items, changed=changed)
    return tables, pairs.map(lambda each: each.drop(LOG_ROW))


def _check_columns(experiment: Experiment, tables: Tables) -> None:
    """Refuse a feature that reads a column which its table lacks, or a history without users."""
    kind = experiment.data.kind
    for side, table in (("query", tables.pairs), ("item", tables.items)):
        present = [name for name in table.columns if side == "item" or name not in tables.reserved]
        for name, spec in getattr(experiment, side).items():
            if isinstance(spec, HistoryFeature) and tables.users is None:
                raise DataError(f"{kind}: {side}.{name} is a history, but these data have no users")
            if isinstance(spec, TimeFeature) and "time" not in tables.pairs.columns:
                raise DataError(
                    f"{kind}: {side}.{name} is the time of a query, but these data have no times; name the "
                    "column of times under [data], or leave the feature out"
                )
            if spec.kind == "negative_history" and not any(
                each["label"].le(0).any() for each in tables.pairs.select("label")
            ):
                raise DataError(
                    f"{kind}: {side}.{name} is a negative history, but these data have no negative events; "
                    "a label tells which events are negative"
                )
            for column in column_names({name: spec}):
                if column not in present:
                    raise DataError(
                        f"{kind}: {side}.{name} reads column {column!r}, which the {side} table does "
                        f"not have; it has {', '.join(present)}"
                    )


def _report(experiment: Experiment, tables: Tables, pairs: Partitions, fingerprint: str) -> dict[str, Any]:
    texts = [spec for spec in experiment.item.values() if isinstance(spec, TextFeature)]
    queries = column_names(experiment.query) if tables.users is None else ["group", "position"]
    sizes = part_sizes(pairs.select("part"))
    report = {
        "name": experiment.name,
        "kind": experiment.data.kind,
        "items": tables.items.height,
        "pairs": pairs.height,
        "groups": sum(each["group"].n_unique() for each in pairs.select("group")),
        "unit": tables.unit if tables.users is None else "users",
        "parts": {part: sizes[part][0] for part in PARTS},
        "display": list(tables.display),
        "dropped": dict(sorted(tables.dropped.items())),
        "changed": dict(sorted({**tables.changed, **_count_empty_texts(tables.items, texts)}.items())),
        "evaluated_text": [spec.column for spec in texts],
        "served_text": [spec.as_served().column for spec in texts],
        "split": dataclasses.asdict(experiment.split),
        "split_hash": split_hash(pairs, tables.items["item_id"], set(queries), tables.users),
        "fingerprint": fingerprint,
        "origin": dict(tables.origin),
    }
    if experiment.filter.fields:
        report["filters"] = filter_kinds(tables.items)
    if tables.users is None:
        return report
    return report | _report_of_users(tables, pairs)


def _count_empty_texts(items: pl.DataFrame, texts: Sequence[TextFeature]) -> dict[str, int]:
    """Reason -> number of items whose text was null or blank."""
    columns = sorted({column for spec in texts for column in (spec.column, spec.as_served().column)})
    counts = {column: int((items[column] == "").sum()) for column in columns}
    return {
        f"item without a text in {column!r}, read as an empty one": n for column, n in counts.items() if n
    }


def _report_of_users(tables: Tables, pairs: Partitions) -> dict[str, Any]:
    """The part of the report that only events have."""
    report = dict[str, Any](repeats=tables.repeats)
    if tables.share_of_repeats is not None:
        report["share_of_repeats"] = tables.share_of_repeats
    if tables.order == BY_TIME:
        bounds = tables.pairs.lazy().select(pl.min("time").alias("first"), pl.max("time").alias("last"))
        report["times"] = list(bounds.collect(engine="streaming").row(0))
    users_by_part, without_history = Counter[str](), Counter[str]()
    cold, cold_records = set[int](), 0
    for each in pairs.select("group", "item_row", "part", "begin", "end"):
        has_none = (pl.col("begin") == pl.col("end")).sum()
        counted = each.group_by("part").agg(pl.col("group").n_unique(), has_none.alias("without"))
        for part, count, without in counted.iter_rows():
            users_by_part[part] += count
            without_history[part] += without
        rows = each.filter(pl.col("part") == COLD)["item_row"]
        cold.update(rows.unique())
        cold_records += len(rows)
    return report | {
        "users": sum(each["group"].n_unique() for each in pairs.select("group")),
        "users_by_part": {part: users_by_part[part] for part in PARTS},
        "order": tables.order,
        "cold_items": len(cold),
        "cold_records": cold_records,
        "without_history": {part: without_history[part] for part in PARTS},
    }


def _report_of_judged(
    config: JudgedConfig, judged: pl.DataFrame, pairs: Partitions, texts: Sequence[str]
) -> dict[str, Any]:
    """The part of the report that only experiments with judged queries have."""
    asked = judged.unique("query_id")
    words = np.zeros(0, np.int64)  # of queries without a text
    if texts:
        trained = (each.filter(pl.col("part") == "train") for each in pairs.select("part", *texts))
        queries = pl.concat([asked.select(texts), *(each.select(texts).unique() for each in trained)])
        words = words_of(queries, texts)
    known = np.isin(words[: asked.height], words[asked.height :]) & (words[: asked.height] >= 0)
    scores = judged["score"].value_counts().sort("score").iter_rows()
    return {
        "judged": {
            **dataclasses.asdict(config),
            "queries": asked.height,
            "judgements": {str(score): count for score, count in scores},
            "queries_in_training": int(known.sum()),
        }
    }


def _write(folder: Path, frames: Mapping[str, pl.LazyFrame], report: dict[str, Any], refresh: bool) -> None:
    """Write all files to a draft and rename it to `folder`.

    Without `refresh`, a folder that another process wrote is kept.
    """
    with atomic_directory.draft(folder.parent, ".dataset-") as draft:
        _fill(draft, frames, report)
        draft.chmod(0o755)
        if refresh and folder.is_dir():
            atomic_directory.remove(folder)
        try:
            os.rename(draft, folder)
        except OSError:
            if not (folder / REPORT).is_file():
                raise
        sync(folder.parent)


def _fill(draft: Path, frames: Mapping[str, pl.LazyFrame], report: dict[str, Any]) -> None:
    """Write all files of a data set.

    Raises:
        DataError: they cannot be written, for example because the disk is full.
    """
    try:
        for name, frame in frames.items():
            frame.sink_parquet(draft / name)
        (draft / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        for path in (*draft.iterdir(), draft):
            sync(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{draft.parent}: the data set cannot be written: {error}") from None
