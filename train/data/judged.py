"""Judged queries: a folder in BEIR layout, read for evaluation.

    queries.jsonl      {"_id": "q1", "text": "..."}
    qrels/test.tsv     query-id <tab> corpus-id <tab> score

A score is the gain of a document: a whole number; with 0 or less it is not relevant. Documents are the items
of the experiment, by id. Judgements of unknown queries or items are left out and counted, as are queries
without a relevant item: every system would score 0 on them.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.protos.features import FeatureSpec, HistoryFeature, TextFeature
from twinspire.train.config.data import JudgedConfig
from twinspire.train.data.columns import column_names, features_of, read_columns
from twinspire.train.data.table_files import find_data_file

QUERIES = "queries.jsonl"
QRELS = "qrels"
ID, TEXT = "_id", "text"
QUERY_ID, DOCUMENT_ID, SCORE = "query-id", "corpus-id", "score"
HIGHEST = 1000  # score; tools that read qrels keep a counter for each

IS_KNOWN = pl.col("item_row").is_not_null()  # of a judgement's document

UNKNOWN_QUERY = "judgement of a query that is not in queries.jsonl"
UNKNOWN_ITEM = "judgement of a document that is not in the catalogue"
REPEATED = "judgement merged with an equal one"
UNANSWERABLE = "judged query without a relevant document"


def judged_files(base: Path, config: JudgedConfig) -> tuple[Path, Path]:
    """Paths of the queries and of the judgements."""
    folder = find_data_file(base, config.folder)
    return folder / QUERIES, folder / QRELS / f"{config.split}.tsv"


def read_judged(
    base: Path, config: JudgedConfig, query: Mapping[str, FeatureSpec], item_ids: pl.Series
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The judged queries of a folder.

    Args:
        config: `[judged]`.
        query: features of the query tower. A single text feature is read from the key `text`. Any other
            feature, and each of several text features, is read from the key with the name of its column.

    Returns:
        A row for each judgement with a score above 0: `query_id`, `item_row` (UInt32, row of the items),
        `score` (Int64), and the columns of the query's features, in the order of `queries.jsonl`; and reason
        -> number of judgements, or queries, that were left out.

    Raises:
        DataError: a file is missing or a value is invalid, which the text names by file, row and column; the
            query reads a history; or no judged query is left.
    """
    queries_path, qrels_path = judged_files(base, config)
    queries = read_queries(queries_path, query)
    asked, dropped = match_qrels(qrels_path, queries, item_ids)
    kept = asked.filter(IS_KNOWN & (pl.col(SCORE) > 0))
    dropped[UNANSWERABLE] = asked[QUERY_ID].n_unique() - kept[QUERY_ID].n_unique()
    if kept.is_empty():
        unknown = asked.filter(~IS_KNOWN)[DOCUMENT_ID].first()
        raise DataError(
            f"{qrels_path}: no query with a relevant document is left of "
            f"{asked.height + dropped[UNKNOWN_QUERY]:,} judgements: "
            f"{dropped[UNKNOWN_QUERY]:,} name a query that {queries_path} lacks, {dropped[UNKNOWN_ITEM]:,} a "
            f"document that the catalogue lacks (such as {unknown!r}; "
            f"its ids are like {item_ids[0]!r})"
        )
    answers = kept.select(pl.col(QUERY_ID).alias("query_id"), "item_row", SCORE)
    found = queries.join(answers, on="query_id", how="inner", maintain_order="left_right")
    return found, {reason: count for reason, count in dropped.items() if count}


def read_queries(path: Path, query: Mapping[str, FeatureSpec]) -> pl.DataFrame:
    """All queries of a file: `query_id`, and the columns of the features.

    Raises:
        DataError: the file is missing, a value is invalid, an id is repeated, or the query reads a history.
    """
    for name, spec in query.items():
        if isinstance(spec, HistoryFeature):
            raise DataError(
                f"{path}: query.{name} is a history, which {QUERIES} cannot hold: leave [judged] out"
            )
    texts = {spec.column for spec in query.values() if isinstance(spec, TextFeature)}
    if len(texts) > 1:  # then each is read by its own name
        texts = set()
    others = [name for name in column_names(query) if name not in texts]
    read = read_columns(path, [ID, *([TEXT] if texts else []), *others])
    ids = read.unique_ids(ID)
    if texts:
        text = read.required(TEXT, "text")
        read = read.with_columns(*(text.alias(name) for name in texts))
    return pl.DataFrame({"query_id": ids, **features_of(read, query)})


def match_qrels(
    path: Path, queries: pl.DataFrame, item_ids: pl.Series
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The distinct judgements of known queries, and counts of the others by reason.

    Each has the row of its item, null where the catalogue lacks the item. The caller leaves out such
    judgements by `IS_KNOWN`; the count of `UNKNOWN_ITEM` is theirs.

    Args:
        queries: as `read_queries` returns them.
        item_ids: ids of the items, in the order of their rows.

    Raises:
        DataError: the file is missing, a score is no whole number, or a document has two scores for a query.
    """
    columns = read_columns(path, [QUERY_ID, DOCUMENT_ID, SCORE])
    expected = f"a whole number of at most {HIGHEST:,}"
    scores = columns.numbers(SCORE, expected)
    columns.refuse(SCORE, scores.is_null() | (scores != scores.floor()) | (scores > HIGHEST), expected)
    ids = {name: columns.required(name, "an id") for name in (QUERY_ID, DOCUMENT_ID)}
    judged = pl.DataFrame({**ids, SCORE: scores.cast(pl.Int64)})
    once = judged.unique(maintain_order=True, keep="first")
    pair = judged.select(pl.struct(QUERY_ID, DOCUMENT_ID).alias("pair"), SCORE)
    first = pair.select(pl.col(SCORE).first().over("pair")).to_series()
    columns.refuse(SCORE, first != judged[SCORE], "the score that an earlier row gives the same document")
    rows = pl.DataFrame({DOCUMENT_ID: item_ids}).with_row_index("item_row")
    joined = once.join(rows, on=DOCUMENT_ID, how="left", maintain_order="left")
    asked = joined.filter(pl.col(QUERY_ID).is_in(queries["query_id"].implode()))
    return asked, {
        REPEATED: judged.height - once.height,
        UNKNOWN_QUERY: joined.height - asked.height,
        UNKNOWN_ITEM: asked["item_row"].null_count(),
    }
