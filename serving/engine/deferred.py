"""An outcome of a method that comes later, while the event loop answers other calls."""

from collections.abc import Callable
from typing import Any


class Deferred:
    """What a method returns when its outcome comes later; for the event loop's thread.

    def Wait(self, request: Any, call: Call) -> Deferred:
        deferred = Deferred()
        ask_another_process(request, lambda answer: call_soon(lambda: deferred.resolve(lambda: answer)))
        return deferred

    While a call waits for one, the event loop polls for `DEFERRED_SECONDS` at most, so `call_soon` is prompt.
    The call's deadline and its cancellation end the wait.

    Args:
        abandoned: called if the call ends before the outcome has come.
    """

    __slots__ = ("_abandoned", "_finish", "_outcome")

    def __init__(self, abandoned: Callable[[], None] = lambda: None) -> None:
        self._abandoned: Callable[[], None] | None = abandoned
        self._finish: Callable[[Callable[[], Any]], None] | None = None
        self._outcome: Callable[[], Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the outcome has not come, and the call waits for it."""
        return self._abandoned is not None

    def resolve(self, outcome: Callable[[], Any]) -> None:
        """Give the outcome; without effect if the call is over or there is an outcome already.

        Args:
            outcome: returns what a method may return, or raises the error of the call.
        """
        if self._abandoned is None:
            return
        self._abandoned = None
        if self._finish is None:  # the method has not returned yet
            self._outcome = outcome
        else:
            finish, self._finish = self._finish, None
            finish(outcome)

    def abandon(self) -> None:
        """End the wait, because the call is over; only `Call` calls this."""
        abandoned, self._abandoned, self._finish = self._abandoned, None, None
        if abandoned is not None:
            abandoned()

    def when_resolved(self, finish: Callable[[Callable[[], Any]], None]) -> None:
        """Call `finish` with the outcome, now or when it comes; only `Call` calls this."""
        if self._outcome is not None:
            outcome, self._outcome = self._outcome, None
            finish(outcome)
        elif self._abandoned is not None:
            self._finish = finish
