"""Files beside the one that they will replace, and what is flushed to disk."""

import os
import secrets
from pathlib import Path


def create_draft(path: Path) -> tuple[int, Path]:
    """Create an empty hidden file in the folder of `path`, to be written and then renamed to it.

    As with `open`, the process's umask decides who may read it.

    Returns:
        Its descriptor, for reading and writing, and its path.
    """
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    return os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), draft


def sync(path: Path) -> None:
    """Flush a file or a folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
