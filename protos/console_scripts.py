"""The installed programs. Each says which extra it needs where a library of that extra is missing."""

import sys
from collections.abc import Callable
from importlib import import_module

PROJECT = "twinspire"


def train() -> int:
    """`twinspire-train`."""
    return _run("train", "train")


def export() -> int:
    """`twinspire-export`."""
    return _run("export", "train")


def serving() -> int:
    """`twinspire-serving`."""
    return _run("serving", "serving")


def client() -> int:
    """`twinspire-client`."""
    return _run("serving.client", "client")


def gateway() -> int:
    """`twinspire-gateway`."""
    return _run("serving.gateway", "http")


def _run(module: str, extra: str) -> int:
    """Run the `main` of a module's `__main__`; returns the exit code.

    Args:
        module: below `twinspire`.
        extra: of the distribution, which installs what the program needs.
    """
    try:
        main: Callable[[], int] = import_module(f"{PROJECT}.{module}.__main__").main
        return main()
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", PROJECT):  # a fault of this project
            raise
        sys.stderr.write(
            f"error: {library} is not installed; it comes with the extra {extra!r} of {PROJECT}\n"
        )
        return 1
