"""The queries of a file, for who has better ones than those that are made (`serving/varied.py`)."""

from pathlib import Path

from protos.errors import DataError
from protos.regular import open_regular
from serving.client.queries import read_queries
from serving.query import Query


def from_file(path: Path) -> list[Query]:
    """Text queries, one on each line; empty lines are left out.

    Raises:
        DataError: the file cannot be read, or holds none.
    """
    try:
        with open_regular(path) as file:
            queries = [query for _, query in read_queries(file, path, "text")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not queries:
        raise DataError(f"{path}: expected a query on each line, found none")
    return queries
