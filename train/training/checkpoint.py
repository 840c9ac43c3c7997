"""Checkpoints: the towers alone, and everything that a run needs to continue.

They do not depend on the device: a run that was begun on a card goes on without one, and the reverse. Both
are written by `torch.save` and read with `weights_only=True`, so that a file cannot run code. A file is
written whole or not at all.
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinspire.protos.bundle import whole_file
from twinspire.protos.errors import DataError
from twinspire.train.models.placement import moved
from twinspire.train.models.tower_factory import Towers
from twinspire.train.models.towers import PARTS
from twinspire.train.training.trainer import State, Trainer

RUN_STATE = "run.pt"
BEST_TOWERS = "towers.pt"
START_TOWERS = "start.pt"  # before the first step


def save_towers(path: Path, towers: Towers) -> None:
    """Write the weights of both towers; a table that they share is stored once."""
    _save(path, _towers_state(towers))


def load_towers(path: Path, towers: Towers) -> None:
    """Load stored weights into towers of the same structure.

    Raises:
        DataError: the file is damaged, or belongs to other towers.
    """
    _restore_towers(path, _load(path), towers)


def save_run(path: Path, trainer: Trainer) -> None:
    """Write towers, optimiser and state."""
    _save(path, _run_content(trainer))


def load_run(path: Path, trainer: Trainer) -> None:
    """Restore a trainer to the state that `save_run` wrote.

    Raises:
        DataError: the file is damaged, or belongs to another experiment.
    """
    # Of large tables rank 0 keeps no more than its rows, so the others need not be in main memory.
    _restore_run(path, _load(path, mapped=trainer.process.count > 1), trainer)


def start_alike(trainer: Trainer) -> None:
    """Give the trainers of all ranks the state of rank 0's; all of them call this before they train.

    Large tables are split among the ranks.
    """
    process = trainer.process
    if process.count > 1:
        with process.tables.splitting():
            content = process.from_rank_0(_run_content(trainer) if process.rank == 0 else None)
            if process.rank > 0:
                _restore_run("state of rank 0", content, trainer)


def _run_content(trainer: Trainer) -> dict[str, Any]:
    content: dict[str, Any] = {
        "towers": _towers_state(trainer.towers),
        "optimiser": moved(trainer.optimiser.state_dict(), Tensor.cpu),
        "state": dataclasses.asdict(dataclasses.replace(trainer.state, hard_negatives=None)),
    }
    if trainer.state.hard_negatives is not None:
        content["hard_negatives"] = torch.from_numpy(trainer.state.hard_negatives)
    return content


def _restore_run(source: Path | str, content: dict[str, Any], trainer: Trainer) -> None:
    try:
        _restore_towers(source, content["towers"], trainer.towers)
        trainer.optimiser.load_state_dict(content["optimiser"])
        trainer.state = State(**content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: does not fit this experiment: {error}") from None
    if "hard_negatives" in content:
        trainer.state.hard_negatives = content["hard_negatives"].numpy()


def _towers_state(towers: Towers) -> dict[str, Any]:
    """The weights in main memory; a table that the towers share is one tensor there, too."""
    copies: dict[int, Tensor] = {}

    def in_main_memory(tensor: Tensor) -> Tensor:
        if tensor.is_cpu:
            return tensor.detach()
        return copies.setdefault(id(tensor), tensor.detach().cpu())

    states = {
        side: tower.state_dict(keep_vars=True) for side, tower in zip(("query", "item"), towers, strict=True)
    }
    for state in states.values():
        for name, tensor in state.items():
            state[name] = in_main_memory(tensor)
    return states


def _restore_towers(source: Path | str, content: dict[str, Any], towers: Towers) -> None:
    try:
        for side, tower in zip(("query", "item"), towers, strict=True):
            for part in PARTS:
                if not any(name.startswith(f"{part}.") for name in content[side]):
                    tower.remove(part)  # as the end of a run did before they were stored
            tower.load_state_dict(content[side])
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{source}: does not fit the towers of this experiment: {error}") from None


def _save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(content, file)


def _load(path: Path, mapped: bool = False) -> Any:
    """The content of a file, in main memory or mapped; loading it into towers copies it to their device."""
    try:
        with zipfile.ZipFile(path) as file:  # torch does not verify the checksums
            damaged = file.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")
        return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        raise DataError(f"{path}: damaged checkpoint: {error}") from None
