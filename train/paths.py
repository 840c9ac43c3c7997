"""Paths of the code, the cache and the tracking store.

In a checkout they are inside it, wherever a command is started. An installed package uses the current
directory. The environment variable `TWINSPIRE_CACHE` names another folder for the cache; serving honours it
too.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the code
IS_CHECKOUT = (ROOT / "pyproject.toml").is_file()
BASE = ROOT if IS_CHECKOUT else Path.cwd()
CONFIGS = BASE / "train" / "configs"
# Data sets, checkpoints and bundles: files that the commands can make again.
CACHE = Path(os.environ.get("TWINSPIRE_CACHE") or BASE / ".cache").absolute()
MLRUNS = BASE / "mlruns"  # MLflow's database and artifacts
