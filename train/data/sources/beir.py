"""A folder in the layout of BEIR (Thakur et al. 2021): documents, queries, and judgements.

    name = "papers"
    data.kind = "beir"
    data.folder = "papers"

    papers/corpus.jsonl       {"_id": "d1", "title": "...", "text": "..."}
    papers/queries.jsonl      {"_id": "q1", "text": "..."}
    papers/qrels/train.tsv    query-id <tab> corpus-id <tab> score
    papers/qrels/test.tsv

Training learns from `qrels/train.tsv` where there is one: a query and a document with a score above 0 are a
pair of weight 1, whatever the score is. Otherwise it learns from the documents themselves: the title is the
query, and the document is read without its title. The queries of `qrels/test.tsv` are judged queries
(`train/data/judged.py`): they are evaluated beside the test part of the training pairs, and never trained on.
`qrels/dev.tsv` is read only if `judged_split` (or `[judged]`) names it: validation is split from the training
pairs.

Those three lines are a whole experiment: `[query]`, `[item]`, `[tower]` and `[loss]` may be left out. With a
`[tower]` and without a `[loss]`, the loss is the usual one of the tower's kind.

Features can read these columns: of queries `query`, which is `text` of `queries.jsonl`, and with
`qrels/train.tsv` any other key of that file; of documents `title`, `text`, `document` (title and text),
`content` (the document as training reads it: without its title where titles are the queries), and any other
key of `corpus.jsonl`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import polars as pl

from twinspire.protos import names
from twinspire.protos.errors import DataError
from twinspire.protos.features import TextFeature
from twinspire.protos.inputs.texts import normalise
from twinspire.train.config.data import JudgedConfig
from twinspire.train.data.columns import Columns, column_names, items_of, read_columns
from twinspire.train.data.filters import filter_columns
from twinspire.train.data.judged import (
    ID,
    IS_KNOWN,
    QRELS,
    QUERIES,
    QUERY_ID,
    SCORE,
    TEXT,
    UNKNOWN_QUERY,
    match_qrels,
    read_queries,
)
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import (
    RESERVED,
    Source,
    SourceConfig,
    SourceContext,
    Tables,
    collapse_spaces,
    contains_query,
    without_query,
)
from twinspire.train.data.table_files import find_data_file, identity_of

CORPUS = "corpus.jsonl"
TITLE, DOCUMENT, CONTENT, QUERY = "title", "document", "content", "query"
MADE = (TITLE, TEXT, DOCUMENT, CONTENT)  # columns of the items that are always there
TRAIN = "train"
SECTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "query": {"text": {"kind": "text", "column": QUERY}},
        "item": {"text": {"kind": "text", "column": CONTENT, "catalogue_column": DOCUMENT}},
        "tower": {"kind": "bag"},
        "loss": {"kind": "in_batch_softmax", "temperature": 0.03, "hard_negatives": 1},
    }
)


@dataclass(frozen=True)
class BeirData(SourceConfig):
    """`[data]` of kind `beir`.

    Args:
        folder: path of the folder, relative to the TOML file; one that is not there is looked for in the
            folder that the environment variable TWINSPIRE_DATA names.
        train: what training learns from: `qrels` is `qrels/train.tsv`, `titles` the documents' titles; `auto`
            is `qrels` where that file exists.
        judged_split: the split of the folder whose queries are judged queries, unless `[judged]` names a
            folder of its own; empty for none. Without a file `qrels/test.tsv`, `test` is none, too.
        display: keys of `corpus.jsonl` that an answer shows beside an id.
    """

    kind: Literal["beir"]
    folder: str
    train: Literal["auto", "qrels", "titles"] = "auto"
    judged_split: str = "test"
    display: tuple[str, ...] = (TITLE,)
    sections: ClassVar[Mapping[str, Any]] = SECTIONS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folder:
            raise ValueError("folder: expected the path of a folder, got an empty string")
        if self.judged_split:
            try:
                names.file_name(self.judged_split)
            except ValueError as error:
                raise ValueError(f"judged_split: {error}") from None
        if self.judged_split == TRAIN:
            raise ValueError('judged_split: "train" is trained on, so that it cannot judge')

    def open(self, context: SourceContext) -> Source:
        """The folder."""
        return BeirSource(self, context, find_data_file(context.base, self.folder))

    def judged_of(self, base: Path) -> JudgedConfig | None:
        """The folder's own judged queries."""
        qrels = find_data_file(base, self.folder) / QRELS
        split = self.judged_split
        if not split or (split == "test" and not (qrels / "test.tsv").exists()):
            return None
        return JudgedConfig(self.folder, split)


@dataclass(frozen=True)
class BeirSource:
    """Documents, and the pairs to train on."""

    data: BeirData
    context: SourceContext
    folder: Path

    @property
    def by_titles(self) -> bool:
        """Whether training learns from titles."""
        known = (self.folder / QRELS / f"{TRAIN}.tsv").exists()
        return self.data.train == "titles" or (self.data.train == "auto" and not known)

    def identity(self) -> str:
        """sha256 of the files that are read, and whether titles are the queries.

        Raises:
            DataError: a file is missing.
        """
        if not self.folder.is_dir():
            raise DataError(
                f"{self.folder}: data.folder: expected a folder with {CORPUS}, {QUERIES} and {QRELS}/; there "
                "is no such folder"
            )
        if self.by_titles:
            return "titles " + identity_of([self.folder / CORPUS])
        paths = (self.folder / CORPUS, self.folder / QUERIES, self.folder / QRELS / f"{TRAIN}.tsv")
        return "qrels " + identity_of(paths)

    def read(self) -> Tables:
        """Items (documents) and pairs.

        Raises:
            DataError: a value is invalid, which the text names by file, row and column; or nothing is left to
                train on.
        """
        context, data = self.context, self.data
        documents = self._documents()
        others = {
            name: spec
            for name, spec in context.item.items()
            if not (isinstance(spec, TextFeature) and set(column_names({name: spec})) <= set(MADE))
        }
        items = items_of(documents, ID, others, [name for name in data.display if name not in MADE])
        items = items.with_columns(
            *(documents.frame[name] for name in MADE if name not in items.columns),
            **filter_columns(documents, context.filter, context.item),
        )
        pairs, dropped = self._titles(items) if self.by_titles else self._judgements(items["item_id"])
        origin = {"folder": data.folder, "trained_on": "titles" if self.by_titles else "qrels"}
        unit = "titles" if self.by_titles else "queries"
        return Tables(items, Partitions.of(pairs), data.display, dropped, origin=origin, unit=unit)

    def _documents(self) -> Columns:
        """The corpus, with the columns `MADE`, whose texts may be empty."""
        path, context = self.folder / CORPUS, self.context
        named = (*column_names(context.item), *self.data.display, *context.filter.fields)
        others = [name for name in named if name not in (*MADE, "item_id")]
        try:
            read = read_columns(path, [ID, TITLE, TEXT, *others])
        except DataError:
            if self.by_titles:
                raise
            read = read_columns(
                path, [ID, TEXT, *others]
            )  # raises again if it is not the title that is missing
        count = read.frame.height
        text = read.strings(TEXT, "text").fill_null("").str.strip_chars()
        title = pl.repeat("", count, dtype=pl.String, eager=True)
        if TITLE in read.frame.columns:
            title = read.strings(TITLE, "text").fill_null("").str.strip_chars()
        both = [*zip(title.to_list(), text.to_list(), strict=True)]
        document = [_with_title(*each) for each in both]
        content = [without_query(text, title) if title else text for title, text in both]
        made: dict[str, Any] = {
            TITLE: title,
            TEXT: text,
            DOCUMENT: document,
            CONTENT: content if self.by_titles else document,
        }
        return read.with_columns(*(pl.Series(name, values, dtype=pl.String) for name, values in made.items()))

    def _titles(self, items: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        """A pair of each title and its document, and the number of documents without one by reason."""
        dropped: Counter[str] = Counter()
        rows = []
        for row, (title, content) in enumerate(items.select(TITLE, CONTENT).iter_rows()):
            query = collapse_spaces(title)
            if not query:
                dropped["document without a title"] += 1
            elif not content:
                dropped["document with nothing beside its title"] += 1
            elif contains_query(content, query):
                dropped["document whose text holds its title inside other words"] += 1
            else:
                rows.append((query, row, 1.0, normalise(query)))
        path = self.folder / CORPUS
        if not rows:
            other = "data.train" if self.data.train == "titles" else f"{self.folder / QRELS}/{TRAIN}.tsv"
            raise DataError(
                f"{path}: expected a document with a title and a text to train on, got none in "
                f"{items.height:,} ({_listed(dropped)}); see {other} to train on judgements"
            )
        schema = {QUERY: pl.String, "item_row": pl.UInt32, "weight": pl.Float32, "group": pl.String}
        return pl.DataFrame(rows, schema, orient="row"), dict(dropped)

    def _judgements(self, item_ids: pl.Series) -> tuple[pl.DataFrame, dict[str, int]]:
        """The pairs of `qrels/train.tsv`, and the number of judgements that are none by reason."""
        query, path = self.context.query, self.folder / QRELS / f"{TRAIN}.tsv"
        for name in column_names(query):
            if name in (*RESERVED, "query_id"):
                raise DataError(f"{self.folder}: a query feature cannot read {name!r}: rename it")
        queries = read_queries(self.folder / QUERIES, query)
        asked, dropped = match_qrels(path, queries, item_ids)
        known = asked.filter(IS_KNOWN)
        kept = known.filter(pl.col(SCORE) > 0).rename({QUERY_ID: "query_id"})
        dropped["judgement with a score of 0 or less"] = known.height - kept.height
        if kept.is_empty():
            raise DataError(
                f"{path}: expected a judgement with a score above 0 of a known query and document, got none "
                f"in {asked.height + dropped[UNKNOWN_QUERY]:,} ({_listed(dropped)})"
            )
        texts = [spec.column for spec in query.values() if isinstance(spec, TextFeature)]
        found = kept.join(queries, on="query_id", how="left", maintain_order="left")
        group = [normalise(text) for text in found[texts[0]]] if texts else found["query_id"].to_list()
        pairs = found.select(
            *column_names(query),
            "item_row",
            pl.lit(1.0, pl.Float32).alias("weight"),
            pl.Series("group", group, dtype=pl.String),
        )
        once = pairs.unique(maintain_order=True, keep="first")
        dropped["pair merged with an equal one"] = pairs.height - once.height
        return once, {reason: count for reason, count in dropped.items() if count}


def _with_title(title: str, text: str) -> str:
    """Title and text; a text that begins with its title is not given it again."""
    if normalise(text).startswith(normalise(title)):
        return text
    return f"{title} {text}".strip()


def _listed(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items() if count) or "none left out"
