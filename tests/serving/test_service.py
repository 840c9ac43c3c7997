"""What a worker does with the bundle that was loaded before the fork."""

from types import SimpleNamespace
from typing import Any

from twinspire.serving.service import _Service


def test_a_worker_tells_the_index_that_it_was_forked() -> None:
    told: list[bool] = []
    retriever = SimpleNamespace(after_fork=lambda: told.append(True))
    service: Any = object.__new__(_Service)
    service._config, service._live = SimpleNamespace(threads=1), None
    service._shared_bundle = SimpleNamespace(retriever=retriever)
    assert service._own_bundle() is service._shared_bundle
    assert told == [True]
    service._shared_bundle = None  # bundles that are swapped are loaded after the fork
    assert service._own_bundle() is None
    assert told == [True]
