"""What a service has shown and what came of it: its served log, joined with its events.

An impression is an item that an answer has shown. It is closed when the attribution window after the answer
has passed; until then an item without a click may still get one, so the whole answer waits for the next
version of the data. Impressions are weighted in two steps:

- **Position.** A hit is clicked if it is examined and attractive, P(click) = examination of its position x
  attractiveness (Richardson et al. 2007, section 3). Attractiveness is that of its stratum: hits of one
  bundle with scores alike, because a ranking puts high scores first, and position would stand for score
  otherwise. Both factors are fitted in turn, as the maximum of a Poisson likelihood. A click weighs
  1 / examination (Joachims et al. 2017, section 4), a hit without one that times the probability that it was
  examined (Wang et al. 2018, equation 1).
- **Exploration.** In an explored answer, a hit weighs the inverse of its propensity relative to a uniform
  draw of the candidates that were left. A hit of any other answer weighs 1.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from twinspire.protos.errors import DataError
from twinspire.protos.files import served_log
from twinspire.protos.inputs.event_types import EXCLUDES, HISTORY, EventTypes

HOUR = 3600.0
MAX_WEIGHT = 10.0  # of a click; a position that is hardly examined would get a huge one
STRATA = 10  # quantiles of the scores of a bundle
ROUNDS = 200  # of the fit
EVENT_COLUMNS = ("user_id", "time", "recorded", "item_id", "type", "value", "request_id")
USER, USE = "user_id", "use"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Period:
    """Times in seconds since 1970.

    Args:
        since: of the first answer and event.
        cutoff: events that were recorded later do not count.
        window: from an answer to the last event that counts for it.
    """

    since: float
    cutoff: float
    window: float

    @property
    def closed(self) -> float:
        """Time of the last answer whose window has closed."""
        return self.cutoff - self.window


def log_files(folder: Path, until: float = float("inf"), since: float = 0.0) -> list[Path]:
    """Files of a served log, oldest first.

    Those whose first answer is after `until` are left out, and those whose hour ended before `since`.

    Raises:
        DataError: there is none, or the name of one does not say when it begins.
    """
    found = sorted(folder.glob(f"*/*{served_log.SUFFIX}"))
    if not found:
        raise DataError(
            f"{folder}: expected files of a served log, HOUR/*{served_log.SUFFIX}, as `serve --served-log` "
            "writes them; there is none"
        )
    try:
        begins = [int(path.stem.partition("-")[0]) / 1e9 for path in found]
    except ValueError as error:
        raise DataError(f"{folder}: expected names that begin with nanoseconds since 1970: {error}") from None
    oldest = since // HOUR * HOUR  # a file has answers of one hour
    return [path for path, begin in zip(found, begins, strict=True) if oldest <= begin <= until]


def collected(frame: pl.LazyFrame, place: Path) -> pl.DataFrame:
    """The rows of a scan of Parquet.

    Raises:
        DataError: a file is damaged, or lacks a column.
    """
    try:
        return frame.collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{place}: cannot be read: {str(error).splitlines()[0]}") from None


def scan_log(files: list[Path]) -> pl.LazyFrame:
    """The answers of some files, with `time` in seconds."""
    return pl.scan_parquet(files).with_columns(pl.col("time").dt.epoch("us") / 1e6)


def scan_events(path: Path, types: EventTypes, period: Period) -> pl.LazyFrame:
    """The events that count: `EVENT_COLUMNS` with `recorded` in seconds, and `USE`, as `EventTypes.use`."""
    events = pl.scan_parquet(path).select(EVENT_COLUMNS).with_columns(pl.col("recorded").dt.epoch("us") / 1e6)
    use = pl.lit(HISTORY)
    if types.types:
        use = pl.col("type").replace_strict(types.types, default=0, return_dtype=pl.Int32)
    if types.has_label:
        bound = types.positive_from
        is_negative = pl.col("value") <= 0 if bound is None else pl.col("value") < bound
        use = pl.when((use == HISTORY) & is_negative.fill_null(False)).then(EXCLUDES).otherwise(use)
    counted = (pl.col("recorded") <= period.cutoff) & (pl.col("time") >= period.since)
    return events.filter(counted).with_columns(use.alias(USE)).filter(pl.col(USE) != 0)


def read_impressions(
    folder: Path, events: pl.DataFrame, period: Period, may_be_empty: bool = False
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The closed impressions of a served log, with labels and weights.

    Args:
        folder: of the log.
        events: as `scan_events` gives them.
        may_be_empty: whether a log without a closed answer has no impressions, and is no error.

    Returns:
        `request_id`, `time`, `user`, `query` (JSON), `item_id`, `position` from 1, `label` (1 of a click),
        `acted` (whether any event counts), `explored`, `weight`; and a report with counts, dates, bundles,
        the share of exploration, and the examination of each position.

    Raises:
        DataError: the log cannot be read, or has no closed answer.
    """
    files = log_files(folder, period.cutoff) or log_files(folder)[:1]  # the filter by time leaves none
    answers = scan_log(files)
    answers = answers.filter(pl.col("time").is_between(period.since, period.cutoff))
    is_closed = pl.col("time") <= period.closed
    waiting = int(collected(answers.select((~is_closed).sum()), folder).item())
    shown = collected(_exploded(answers.filter(is_closed)), folder)
    if shown.is_empty() and not may_be_empty:
        raise DataError(
            f"{folder}: expected an answer before {time_text(period.closed)}, whose attribution window has "
            f"closed; there is none, and {waiting:,} wait"
        )
    acted = events.filter(pl.col("request_id") != "").join(
        shown.select("request_id", pl.col("time").alias("__shown")).unique(), on="request_id"
    )
    acted = acted.filter(pl.col("time") <= pl.col("__shown") + period.window)
    outcome = acted.group_by("request_id", "item_id").agg(
        (pl.col(USE).min() == HISTORY).alias("__clicked"), pl.lit(True).alias("acted")
    )
    users = acted.group_by("request_id").agg(pl.col(USER).first())
    shown = shown.join(outcome, on=["request_id", "item_id"], how="left", maintain_order="left")
    shown = shown.join(users, on="request_id", how="left", maintain_order="left")
    shown = shown.with_columns(
        pl.col("__clicked").fill_null(False).cast(pl.Float32).alias("label"),
        pl.col("acted").fill_null(False),
        pl.coalesce(USER, "user").alias("user"),
        pl.col("relative_propensity").is_not_null().alias("explored"),
    )
    weights, examination = _weights(shown)
    requests = shown.unique("request_id")
    explored = shown.filter("explored")["request_id"].n_unique()
    report = {
        "answers": requests.height,
        "waiting": waiting,
        "impressions": shown.height,
        "clicks": int(shown["label"].sum()),
        "events_of_answers": acted.height,
        "events_of_others": events.height - acted.height,
        "first": time_text(requests["time"].min()),
        "last": time_text(requests["time"].max()),
        "cutoff": time_text(period.cutoff),
        "bundles": dict(sorted(requests["bundle"].value_counts().iter_rows())),
        "explored": explored / max(1, requests.height),
        "examination": [round(each, 3) for each in examination.tolist()],
    }
    kept = ["request_id", "time", "user", "query", "item_id", "position", "label", "acted", "explored"]
    return shown.select(*kept, pl.Series("weight", weights, pl.Float64)), report


def time_text(seconds: Any) -> str:
    """A time as an ISO date, in UTC; "never" of None."""
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _exploded(answers: pl.LazyFrame) -> pl.LazyFrame:
    """A row for each hit; `relative_propensity` is its propensity times the candidates left, or null."""
    index = pl.int_ranges(pl.col("item_ids").list.len())
    of_hits = {"score": "scores", "propensity": "propensities", "team": "teams"}
    lists = [pl.col(old).fill_null([]).list.gather(index, null_on_oob=True) for old in of_hits.values()]
    hits = answers.unique("request_id", keep="first", maintain_order=True).select(
        *("request_id", "time", "user", "query", "bundle", "challenger"),
        pl.col("candidate_ids").list.len().cast(pl.Int64).alias("candidates"),
        pl.col("item_ids").alias("item_id"),
        (index + 1).alias("position"),
        *(each.alias(name) for each, name in zip(lists, of_hits, strict=True)),
    )
    left = pl.col("candidates") - pl.col("position") + 1
    return (
        hits.explode("item_id", "position", *of_hits)
        .filter(pl.col("item_id").is_not_null())
        .with_columns(
            pl.when(left > 0).then(pl.col("propensity") * left).alias("relative_propensity"),
            pl.when(pl.col("team") == 1).then("challenger").otherwise("bundle").alias("ranked_by"),
        )
    )


def _weights(shown: pl.DataFrame) -> tuple[Floats, Floats]:
    """(N,): the weight of each impression; and the examination of each position, that of the first is 1."""
    order = pl.col("score").rank("ordinal").over("ranked_by") - 1
    quantile = order * STRATA // pl.col("score").count().over("ranked_by")
    strata = shown.select(pl.struct("ranked_by", quantile.fill_null(-1)).rank("dense") - 1).to_series()
    position, stratum = shown["position"].to_numpy() - 1, strata.to_numpy().astype(np.int64)
    clicked = shown["label"].to_numpy() > 0
    examination, attractiveness = fit_examination(position, stratum, clicked)
    of_hit, attractive = examination[position], attractiveness[stratum]
    was_examined = of_hit * (1 - attractive) / (1 - of_hit * attractive)
    corrected = np.where(shown["acted"].to_numpy(), 1.0, was_examined) / of_hit
    propensity = shown["relative_propensity"].fill_null(1.0).to_numpy()
    return np.minimum(corrected / np.maximum(propensity, 1 / MAX_WEIGHT), MAX_WEIGHT), examination


def fit_examination(
    position: npt.NDArray[np.int64], stratum: npt.NDArray[np.int64], clicked: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Examination of each position, and attractiveness of each stratum, both in (0, 1].

    Args:
        position: (N,), from 0.
        stratum: (N,), from 0.
        clicked: (N,).

    Returns:
        (P,), where the first position has 1, and positions with few impressions are drawn towards 1; (S,).
    """
    shape = (int(position.max(initial=0)) + 1, int(stratum.max(initial=0)) + 1)
    cell = np.ravel_multi_index((position, stratum), shape)
    shown = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    clicks = np.bincount(cell, clicked, minlength=shape[0] * shape[1]).reshape(shape)
    examination, attractiveness = np.ones(shape[0]), np.ones(shape[1])
    for _ in range(ROUNDS):
        attractiveness = clicks.sum(axis=0) / np.maximum(examination @ shown, 1e-9)
        examination = (clicks.sum(axis=1) + 1) / (shown @ attractiveness + 1)
        examination /= examination[0]
    attractiveness = np.clip(attractiveness, 1e-6, 1 - 1e-6)
    return np.clip(examination, 1 / MAX_WEIGHT, 1.0), attractiveness
