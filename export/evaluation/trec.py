"""Rankings as TREC run files with their judgements, for trec_eval, ir_measures, pytrec_eval and ranx.

    runs/test/qrels.txt          query 0 document gain
    runs/test/queries.jsonl      {"_id": query, feature name: value}
    runs/test/served.run         query Q0 document rank score tag
    runs/test/exact.run, bm25.run, ...
    runs/judged/...              the same of the judged queries, if there are any

`served` is found by the bundle's towers and an index of its parameters, which `evaluate` builds over the
evaluated texts: of the test split those without `catalogue_column`, of judged queries those that are served.
`exact` is exact search over the same vectors, and the others are the baselines. Both sets of queries have all
of them.

- The score is 101 - rank. Evaluation tools sort by score, and equal scores by the document's id, whatever
  the rank is. With equal scores they would measure another order than the one that a user sees; here the
  ranking has decided which of two equal items comes first.
- Every query of `qrels.txt` has a relevant document. A query for which a ranking finds nothing has no line in
  its run file, and counts as 0, as in the report.
- A judged query has the id of `queries.jsonl`. A query of the test split has none, and gets a digest of its
  values; of queries with equal values, such as users with empty histories, each after the first gets a digest
  of its values and of their number before it.
- White space and `%` in an id are percent-encoded, because white space separates the fields of a line.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from twinspire.export.evaluation.quality import K
from twinspire.protos.errors import DataError
from twinspire.protos.files import atomic_directory
from twinspire.protos.files.draft_file import sync
from twinspire.train.data.training_data import TrainingData

Rows = npt.NDArray[np.int64]

QRELS, QUERIES, RUN = "qrels.txt", "queries.jsonl", ".run"
TEST, JUDGED = "test", "judged"
SERVED = "served"
DIGEST_BYTES = 8  # of the id of a test query

_SEPARATES = re.compile(r"[\s%]")


@dataclass(frozen=True)
class Topics:
    """Queries with their judgements, and rankings of them.

    Args:
        part: name of the folder.
        ids: of the Q queries, distinct.
        values: of each query, feature name -> value.
        items: ids of the items by row.
        relevant: for each query the rows of its relevant items.
        gains: for each query the gains of these items.
        rankings: name -> (Q, K) item rows, best first; -1 where there is none.
    """

    part: str
    ids: Sequence[str]
    values: Sequence[Mapping[str, Any]]
    items: Sequence[str]
    relevant: Sequence[Rows]
    gains: Sequence[Rows]
    rankings: Mapping[str, Rows]


def split_topics(data: TrainingData, answers: Mapping[str, Rows]) -> Topics:
    """The queries of the test split.

    Args:
        data: the data set.
        answers: the result of `quality.rankings` for these queries.
    """
    queries, relevant = data.parts["test"].by_query()
    values = _values(data, queries)
    gains = [np.ones(len(items), np.int64) for items in relevant]
    return Topics(TEST, _digests(values), values, data.item_ids, relevant, gains, _named(answers))


def judged_topics(data: TrainingData, answers: Mapping[str, Rows]) -> Topics:
    """The judged queries, with the rankings of the served items; arguments as of `split_topics`."""
    judged = data.judged
    assert judged is not None
    values = _values(data, judged.query)
    return Topics(JUDGED, judged.ids, values, data.item_ids, judged.relevant, judged.gains, _named(answers))


def check_output(folder: Path) -> None:
    """Refuse a folder that holds something; run files are written into a new or an empty one.

    Raises:
        DataError: it does, or it is no folder.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
        raise DataError(f"{folder}: expected an empty folder for run files, or a new name")


def write_runs(folder: Path, topics: Sequence[Topics], tag: str) -> None:
    """Write run files and judgements, whole or not at all.

    Args:
        folder: receives a folder for each of the topics.
        topics: distinct by their part.
        tag: of the runs; each file adds the name of its ranking.

    Raises:
        DataError: the folder is not empty, or the files cannot be written.
    """
    check_output(folder)
    parent = folder.absolute().parent
    try:
        with atomic_directory.draft(parent, ".runs-") as draft:
            for each in topics:
                _fill(draft / each.part, each, tag)
            sync(draft)
            draft.chmod(0o755)
            os.rename(draft, folder)
            sync(parent)
    except OSError as error:
        raise DataError(f"{folder}: the run files cannot be written: {error.strerror or error}") from None


def _fill(folder: Path, topics: Topics, tag: str) -> None:
    folder.mkdir()
    queries, documents = ([_field(each) for each in ids] for ids in (topics.ids, topics.items))
    answers = zip(queries, topics.relevant, topics.gains, strict=True)
    files: dict[str, Iterator[str]] = {
        QRELS: (
            f"{query} 0 {documents[row]} {gain}\n"
            for query, rows, gains in answers
            for row, gain in zip(rows.tolist(), gains.tolist(), strict=True)
        ),
        QUERIES: (
            json.dumps({"_id": query, **values}, ensure_ascii=False, default=str) + "\n"
            for query, values in zip(queries, topics.values, strict=True)
        ),
    }
    for name, ranked in topics.rankings.items():
        files[f"{name}{RUN}"] = _run(queries, documents, ranked, f"{tag}-{name}")
    for name, lines in files.items():
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
        sync(folder / name)
    sync(folder)


def _run(queries: Sequence[str], documents: Sequence[str], ranked: Rows, tag: str) -> Iterator[str]:
    """The lines of a run file."""
    for query, rows in zip(queries, ranked.tolist(), strict=True):
        found = (row for row in rows if row >= 0)
        for rank, row in enumerate(found, 1):
            yield f"{query} Q0 {documents[row]} {rank} {K + 1 - rank} {tag}\n"


def _named(answers: Mapping[str, Rows]) -> dict[str, Rows]:
    return {name or SERVED: rows for name, rows in answers.items()}


def _values(data: TrainingData, rows: Rows) -> list[dict[str, Any]]:
    return [{name: values[row] for name, values in data.queries.items()} for row in rows.tolist()]


def _digests(queries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids of queries that have none, distinct even if values are equal."""
    before: Counter[str] = Counter()
    found = []
    for values in queries:
        text = json.dumps(values, sort_keys=True, default=str)
        counted = f"{text}{before[text] or ''}"
        before[text] += 1
        found.append(hashlib.blake2b(counted.encode(), digest_size=DIGEST_BYTES).hexdigest())
    return found


def _field(text: str) -> str:
    """An id as one field of a line."""
    return _SEPARATES.sub(lambda found: quote(found.group()), text)
