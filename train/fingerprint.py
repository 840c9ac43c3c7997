"""When is a stage's output still good? When the fingerprint of all that it follows from is the same."""

import dataclasses
import hashlib
import json
from typing import Any

from train.places import ROOT

# Code that changes no result: what is drawn, printed, tracked, or where it is kept.
PRESENTATION = (
    "__main__.py",
    "card.py",
    "command.py",
    "encode_command.py",
    "fingerprint.py",
    "history.py",
    "lock.py",
    "moves.py",
    "observer.py",
    "places.py",
    "plots.py",
    "registry.py",
    "release.py",
    "rollback.py",
    "stages.py",
    "tables.py",
    "tracking.py",
    "trail.py",
)


def fingerprint(*parts: Any) -> str:
    """sha256 over dataclasses, or anything else that JSON can say."""
    plain = [
        dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else part
        for part in parts
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def source_code(*folders: str) -> str:
    """sha256 over the Python files directly in some top-level folders: code is an input like any other."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.name not in PRESENTATION:
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
