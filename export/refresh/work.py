"""What a refresh that is under way keeps on disk, so that another process can go on with it after a kill.

    <cache>/refresh/pydocs/state.json        what it was begun with, and how far it is
    <cache>/refresh/pydocs/changes.jsonl     the state of the store that it is made of
    <cache>/refresh/pydocs/vectors.npy       of the items that were encoded; `.part` while that goes on

The state of the store is kept until the refresh has ended, also if a process goes on with it much later. What
came after it is in the next refresh; until then the service derives it.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from twinspire.protos.bundle import write_file
from twinspire.protos.documents import parse_json
from twinspire.protos.toml_config import parse
from twinspire.train.paths import CACHE

WORK = CACHE / "refresh"


@dataclass(frozen=True)
class RefreshState:
    """The state of a refresh.

    Args:
        begun_with: what determines it; a refresh that begins with something else starts anew.
        bundle_version: of the bundle that it has made, empty until then.
        version: of that bundle in the registry, empty until it is registered.
        waiting: the version that was the challenger before; it gets its alias back.
    """

    begun_with: dict[str, str] = field(default_factory=dict)
    bundle_version: str = ""
    version: str = ""
    waiting: str = ""


class RefreshFolder:
    """The folder of the refresh of one model; for the process that holds its lock.

    Args:
        name: of the model.
        work: parent of the folders of all models.

    Attributes:
        state: as it is on disk.
    """

    def __init__(self, name: str, work: Path = WORK) -> None:
        self.folder = work / name
        self.state = self._read()

    @property
    def changes(self) -> Path:
        """The state of the store."""
        return self.folder / "changes.jsonl"

    @property
    def vectors(self) -> Path:
        """Of the items that were encoded."""
        return self.folder / "vectors.npy"

    def begin(self, begun_with: dict[str, str]) -> bool:
        """Begin, or go on with a refresh that was begun with the same; returns whether it goes on."""
        if self.state.begun_with == begun_with:
            return True
        self.end()
        self.folder.mkdir(parents=True, exist_ok=True)
        return False

    def note(self, **changed: object) -> None:
        """Change the state on disk."""
        self.state = dataclasses.replace(self.state, **changed)  # type: ignore[arg-type]
        write_file(self.folder / "state.json", json.dumps(dataclasses.asdict(self.state)).encode())

    def end(self) -> None:
        """Remove everything."""
        (self.folder / "state.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.state = RefreshState()

    def _read(self) -> RefreshState:
        try:
            found: RefreshState = parse(parse_json((self.folder / "state.json").read_bytes()), RefreshState)
        except (FileNotFoundError, ValueError):
            return RefreshState()
        return found
