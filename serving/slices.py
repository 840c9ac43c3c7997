"""Long jobs: the batcher works on them slice by slice, and answers short jobs between two slices.

A job is long if it has more queries than a batch, or if its searches look for many items in all. A slice is
sized by the processor time that slices of similar jobs took, or the slice before it, so that it takes about
`SLICE_SECONDS` whatever the bundle, k and the machine are; one query is the least. Where no similar job is
known the first slice is no larger than a batch. Each slice costs some time of its own, so that a rest that is
little larger than a slice is one, too. Long jobs take turns, one slice each. While short jobs wait, long jobs
get about half of the time.
"""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from serving.batching import Job

Kind = tuple[int, int, int]
Vectors = npt.NDArray[np.float32]

SLICE_SECONDS = 0.02
REST = 1.5  # a rest of at most this many slices becomes one slice, since each slice has a cost of its own
GROWTH = 4  # a slice has at most this many times the queries of the slice before it


class LongJob:
    """A long job, and how much of it is done.

    Args:
        job: the job; it collects the results of its slices.
        seconds_per_query: that similar jobs took, 0 where none is known.
        first: queries in the first slice where none is known.
    """

    def __init__(self, job: "Job", seconds_per_query: float, first: int) -> None:
        self.job = job
        self._vectors: list[Vectors] = []
        self._next = 0  # the first query of the next slice
        self._size = self._fitting(seconds_per_query) if seconds_per_query else first

    @property
    def queries(self) -> int:
        """Queries that no slice has worked on yet."""
        return len(self.job.prepared) - self._next

    def slice(self) -> "Job":
        """The next queries, as a job of their own."""
        part = self.job.part(self._next, self._next + self._size)
        self._next += len(part.prepared)
        return part

    def merge(self, part: "Job", seconds: float) -> bool:
        """Add the results of a slice to the job.

        Args:
            part: the slice that was worked on.
            seconds: of this thread's processor time that this took.

        Returns:
            Whether the job is done: all of its queries have results, or one slice has failed.
        """
        job = self.job
        if part.error is not None:
            job.error = part.error
            return True
        if not self._vectors:
            job.queue_us = part.queue_us
            job.encode_started, job.search_started = part.encode_started, part.search_started
        self._vectors.append(part.vectors)
        job.found += part.found
        job.encode_us += part.encode_us
        job.search_us += part.search_us
        job.batch = max(job.batch, part.batch)
        self._size = min(GROWTH * len(part.prepared), self._fitting(seconds / len(part.prepared)))
        if self.queries:
            return False
        job.vectors = np.concatenate(self._vectors)
        return True

    def _fitting(self, seconds_per_query: float) -> int:
        """Queries of the next slice, if each takes so long."""
        most = SLICE_SECONDS / max(seconds_per_query, 1e-7)
        return self.queries if self.queries <= REST * most else max(1, int(most))


class LongJobs:
    """The long jobs that wait for their next slice. For one thread.

    Args:
        batch: queries in a batch.
        batch_cost: items that the searches of one batch may look for.
    """

    def __init__(self, batch: int, batch_cost: int) -> None:
        self._batch, self._batch_cost = batch, batch_cost
        self._known: dict[Kind, float] = {}  # processor seconds per query
        self.queries = 0  # that wait
        self.seconds_per_query = 0.0  # moving average
        self._jobs: deque[LongJob] = deque()
        self._debt = 0.0  # seconds that short jobs must get before the next slice

    def __len__(self) -> int:
        return len(self._jobs)

    def begin(self, job: "Job") -> None:
        """Let a job wait for its first slice."""
        first = max(1, min(self._batch, self._batch_cost * len(job.prepared) // max(1, job.cost)))
        self.add(LongJob(job, self._known.get(kind(job), 0.0), first))

    def add(self, job: LongJob) -> None:
        """Let a job wait for its next slice, behind the others."""
        self._jobs.append(job)
        self.queries += job.queries

    def take(self) -> LongJob:
        """Take out the job that has waited longest for a slice."""
        job = self._jobs.popleft()
        self.queries -= job.queries
        return job

    @property
    def is_due(self) -> bool:
        """Whether the next slice comes before the short jobs that wait."""
        return self._debt <= 0 and bool(self._jobs)

    def worked(self, part: "Job", seconds: float, used: float) -> None:
        """Note the wall-clock and the processor time of a slice, in seconds."""
        queries = len(part.prepared)
        self._debt = seconds
        self.seconds_per_query += (seconds / queries - self.seconds_per_query) / 8
        each, known = used / queries, self._known.get(key := kind(part), 0.0)
        self._known[key] = each if each > known else known + (each - known) / 4

    def gave_way(self, seconds: float) -> None:
        """Note the wall-clock time of a batch of short jobs, in seconds."""
        self._debt -= seconds


def kind(job: "Job") -> Kind:
    """What the time per query follows from, each to the next power of two; so there are few kinds.

    Returns:
        Items that each search looks for, queries that are items (which are compared with every other), and
        characters and strings in each query.
    """
    queries = len(job.prepared)
    items = size = 0
    for each in job.prepared:
        if each.values is None:
            items += 1
        else:
            size += sum([len(value) for value in each.values.values() if isinstance(value, str | list)])
    parts = job.cost // queries, items * 256 // queries, size // queries
    return parts[0].bit_length(), parts[1].bit_length(), parts[2].bit_length()
