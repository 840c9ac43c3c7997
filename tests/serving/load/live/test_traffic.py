"""What the threads of the traffic share."""

import threading
from typing import Any

from tests.load.live.traffic import Operations


class Interrupted(Operations):
    """Another thread counts a failed try just when one has read the number."""

    other: threading.Thread | None = None

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == "failed_tries" and self.other is None:
            self.other = threading.Thread(target=self.count_failed_try)
            self.other.start()
            self.other.join(0.2)  # returns sooner only where nothing keeps it from counting
        return found


def test_no_failed_try_is_lost_where_two_threads_count() -> None:
    operations = Interrupted(10)
    operations.count_failed_try()
    assert operations.other is not None
    operations.other.join()
    assert operations.failed_tries == 2


def test_operations_go_on_past_the_total_until_they_are_released() -> None:
    operations = Operations(2)
    assert [operations.take() for _ in range(3)] == [True] * 3
    operations.release()
    assert (operations.take(), operations.done) == (False, 3)
    held = Operations(2)
    held.stop()
    assert not held.take()
