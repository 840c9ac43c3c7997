"""Checkpoints: the towers alone, and all that a run needs to go on.

Both are written by `torch.save` and read with `weights_only=True`, so reading one runs no code of its
own. A file is written whole or not at all.
"""

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from protos.bundle import write_file
from protos.errors import DataError
from train.loop import State, Towers, Trainer


def save_towers(path: Path, towers: Towers) -> None:
    """The weights of both towers; a table that they share is stored once."""
    _save(path, _towers_state(towers))


def load_towers(path: Path, towers: Towers) -> None:
    """Put stored weights into towers that were built alike.

    Raises:
        DataError: the file is damaged, or belongs to other towers.
    """
    _restore_towers(path, _load(path), towers)


def save_run(path: Path, trainer: Trainer) -> None:
    """Towers, optimiser and state."""
    content: dict[str, Any] = {
        "towers": _towers_state(trainer.towers),
        "optimiser": trainer.optimiser.state_dict(),
        "state": dataclasses.asdict(dataclasses.replace(trainer.state, hard=None)),
    }
    if trainer.state.hard is not None:
        content["hard"] = torch.from_numpy(trainer.state.hard)
    _save(path, content)


def load_run(path: Path, trainer: Trainer) -> None:
    """Put a trainer where `save_run` left it.

    Raises:
        DataError: the file is damaged, or belongs to another experiment.
    """
    content = _load(path)
    try:
        _restore_towers(path, content["towers"], trainer.towers)
        trainer.optimiser.load_state_dict(content["optimiser"])
        trainer.state = State(**content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: does not fit this experiment: {error}") from None
    if "hard" in content:
        trainer.state.hard = content["hard"].numpy()


def _towers_state(towers: Towers) -> dict[str, Any]:
    return {side: tower.state_dict() for side, tower in zip(("query", "item"), towers, strict=True)}


def _restore_towers(path: Path, content: dict[str, Any], towers: Towers) -> None:
    try:
        for side, tower in zip(("query", "item"), towers, strict=True):
            tower.load_state_dict(content[side])
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path}: does not fit the towers of this experiment: {error}") from None


def _save(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(path, buffer.getvalue())


def _load(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as file:  # torch's own reader does not look at the check sums
            damaged = file.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is not what was written")
        return torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # torch raises whatever its reader tripped over
        raise DataError(f"{path}: damaged checkpoint: {error}") from None
