"""Names of signals."""

import signal


def signal_name(number: int) -> str:
    """The name of a signal, such as `SIGKILL`; `signal 40` if it has none, as most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
