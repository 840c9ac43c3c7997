"""A kind of loss or tower is one module beside the others, which registers itself."""

import subprocess
import sys
from dataclasses import dataclass
from typing import get_args

import pytest

from twinspire.train.config import LossConfig, TowerConfig
from twinspire.train.config.towers import HistoryTower
from twinspire.train.losses.objective import OBJECTIVES
from twinspire.train.models.tower_factory import ARCHITECTURES
from twinspire.train.paths import ROOT
from twinspire.train.registry import Registry


@dataclass(frozen=True)
class Known:
    """A configuration with an implementation."""


def test_the_implementation_is_found_by_the_class_of_the_configuration() -> None:
    registry: Registry[str] = Registry("twinspire.train.config.*")
    assert registry.register(Known)("implementation") == "implementation"
    assert registry.find(Known()) == "implementation"
    with pytest.raises(LookupError, match=r"train\.config\.\*: no module registers an implementation for in"):
        registry.find(1)


TOWERS = set(get_args(TowerConfig)) - {HistoryTower}  # in whose place a `SequenceTower` is built


@pytest.mark.parametrize("config", [*get_args(LossConfig), *sorted(TOWERS, key=str)])
def test_every_kind_has_an_implementation(config: type) -> None:
    registry: Registry[type] = OBJECTIVES if config in get_args(LossConfig) else ARCHITECTURES
    assert registry.find(object.__new__(config)).__module__.startswith("twinspire.train.")


def test_a_configuration_is_read_without_torch() -> None:
    code = "import sys, twinspire.train.config\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr
