"""Pairs whose query is held out, which a split by group leaves out of the other parts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from twinspire.protos.errors import DataError
from twinspire.protos.inputs.query_words import word_numbers
from twinspire.train.config.data import SplitConfig
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import POSITIVE
from twinspire.train.data.splits.parts import SHOWN, check_parts

REPEATED_QUERIES = 'in a log where queries repeat, name data.time and set split.by = "time", which keeps them'


def leave_out_known_queries(
    pairs: pl.DataFrame, config: SplitConfig, texts: Sequence[str], columns: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame | None, dict[str, int]]:
    """The pairs of a split by `group` without those whose query text is also held out, and their answers.

    Test keeps all of its pairs. Validation pairs with the words of a test query are left out, and so are
    training pairs with those of a test or validation query (`word_numbers`). Groups that share a query are
    not put into one part instead: short sentences, such as "Return the name.", link most groups, and a new
    pair could move others.

    Other splits are not changed.

    Args:
        pairs: as `assign_parts` returns them, no events of users.
        columns: of all of its features.

    Returns:
        The pairs; the distinct queries (`columns`) of validation and test, each with the `item_row` of all
        positive pairs, those left out included, of the same words and other features, None of other splits
        and of queries without a text; and part -> number of its pairs with such a query, above 0.

    Raises:
        DataError: a part would be empty.
    """
    if config.by != "group" or not texts:
        return pairs, None, {}
    words = words_of(pairs, texts)
    left_out, held_out = np.zeros(pairs.height, bool), (pairs["part"] == "test").to_numpy()
    found = {}
    for part in ("validation", "train"):
        of_part = (pairs["part"] == part).to_numpy()
        repeated = of_part & (words >= 0) & np.isin(words, words[held_out])
        left_out, held_out = left_out | repeated, held_out | of_part
        if repeated.any():
            found[part] = int(repeated.sum())
    numbered = pairs.with_columns(pl.Series("__words", words))
    kept = numbered.filter(~left_out)
    try:
        check_parts(Partitions.of(kept), config)
    except DataError as error:
        raise DataError(
            f"{error}, after {left_out.sum()} pairs were left out whose query is also one of test or "
            f"validation; {REPEATED_QUERIES}"
        ) from None
    answers = _answers(kept, numbered, texts, columns)
    return kept.drop("__words"), answers, found


def words_of(table: pl.DataFrame, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """`word_numbers` of each row's texts in these columns."""
    return word_numbers(table.select(pl.concat_str(texts, separator="\n", ignore_nulls=True)).to_series())


def _answers(
    kept: pl.DataFrame, every: pl.DataFrame, texts: Sequence[str], columns: Sequence[str]
) -> pl.DataFrame:
    """See `leave_out_known_queries`; of pairs with `__words`, those that are kept and every one."""
    query = dict.fromkeys(columns)
    key = ["__words", *(name for name in query if name not in texts)]
    has_words = pl.col("__words") >= 0
    asked = kept.filter(has_words, pl.col("part") != "train").select("__words", *query).unique()
    every = every.filter(pl.col("part") != SHOWN)
    positive = every.filter(POSITIVE) if "label" in every.columns else every
    items = positive.select(*key, "item_row").unique()
    return asked.join(items, on=key, nulls_equal=True).drop("__words")
