"""Long jobs: the batcher works on them slice by slice, and answers short jobs between two slices.

A job is long if it has more queries than a batch, or if its searches look for many items in all. The first
slice is small. Each further one is sized by the time that the slice before it took, so that a slice takes
about `SLICE_SECONDS` whatever the bundle, k and the machine are; one query is the least. Long jobs take
turns, one slice each. While short jobs wait, long jobs get at most half of the time.
"""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from serving.batching import Job

Vectors = npt.NDArray[np.float32]

SLICE_SECONDS = 0.01
FIRST_QUERIES = 16  # in the first slice of a job, at most
GROWTH = 4  # a slice has at most this many times the queries of the slice before it


class LongJob:
    """A long job, and how much of it is done.

    Args:
        job: the job; it collects the results of its slices.
        batch_cost: items that the searches of one batch may look for.
    """

    def __init__(self, job: "Job", batch_cost: int) -> None:
        self.job = job
        self._vectors: list[Vectors] = []
        queries = len(job.prepared)
        self._next = 0  # the first query of the next slice
        self._size = max(1, min(FIRST_QUERIES, batch_cost * queries // max(1, job.cost)))

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
            seconds: that this took.

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
        fitting = int(len(part.prepared) * SLICE_SECONDS / max(seconds, 1e-6))
        self._size = max(1, min(GROWTH * len(part.prepared), fitting))
        if self.queries:
            return False
        job.vectors = np.concatenate(self._vectors)
        return True


class LongJobs:
    """The long jobs that wait for their next slice. For one thread."""

    def __init__(self) -> None:
        self.queries = 0  # that wait
        self.seconds_per_query = 0.0  # moving average
        self._jobs: deque[LongJob] = deque()
        self._debt = 0.0  # seconds that short jobs must get before the next slice

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: LongJob) -> None:
        """Let a job wait for its first or next slice, behind the others."""
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

    def worked(self, queries: int, seconds: float) -> None:
        """A slice of so many queries took so many seconds."""
        self._debt = seconds
        self.seconds_per_query += (seconds / queries - self.seconds_per_query) / 8

    def gave_way(self, seconds: float) -> None:
        """Short jobs took so many seconds."""
        self._debt -= seconds
