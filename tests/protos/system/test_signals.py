"""Signals have names in messages, also those that Python has no name for."""

import signal

import pytest

from twinspire.protos.system.signals import signal_name


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (40, "signal 40")])
def test_a_signal_has_a_name_or_its_number(number: int, name: str) -> None:
    assert signal_name(number) == name
