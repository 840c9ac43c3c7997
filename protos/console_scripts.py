"""The installed programs. Each says which extra it needs where a library of that extra is missing."""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

PROJECT = "twinspire"


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


train = partial(_run, "train", "train")  # `twinspire-train`
export = partial(_run, "export", "train")
serving = partial(_run, "serving", "serving")
client = partial(_run, "serving.client", "client")
gateway = partial(_run, "serving.gateway", "http")
