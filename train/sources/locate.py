"""Where the files of the user's own lie, and what identifies what is in them.

A path is relative to the TOML file. What is not there is looked for in the folder that the environment
variable TWINSPIRE_DATA names, so that data sets of any size can lie outside the checkout.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from protos.bundle import record
from protos.errors import DataError
from protos.regular import check_regular

VARIABLE = "TWINSPIRE_DATA"


def locate(base: Path, name: str) -> Path:
    """The path of a file; the one beside the TOML if there is none anywhere."""
    beside = base / name
    folder = os.environ.get(VARIABLE)
    if folder and not beside.exists() and (Path(folder) / name).exists():
        return Path(folder) / name
    return beside


def identity_of(paths: Iterable[Path]) -> str:
    """sha256 over the sha256 of the files.

    Raises:
        DataError: a file is missing, or is no regular file.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            check_regular(path)
            digest.update(record(path).sha256.encode())
        except OSError as error:
            hint = "" if path.exists() else f"; {VARIABLE} may name the folder that it lies in"
            raise DataError(f"{path}: cannot be read: {error.strerror or error}{hint}") from None
    return digest.hexdigest()
