"""What takes long to make is made by one of the processes that run the tests, for all of them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from twinspire.protos.files.file_lock import exclusive_lock


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process that needs it fills; the others wait for it, and change nothing in it.

    Args:
        make: fills the folder, which is there and empty.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a process of several has a folder in the one of all
        root = root.parent
    folder = root / "shared" / name
    with exclusive_lock(folder.with_suffix(".lock")):
        made = folder.with_suffix(".made")
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir(parents=True)
            make(folder)
            made.touch()
    return folder
