"""Where things are kept: all of it under the checkout, all of it out of git.

`TWINSPIRE_CACHE` names another folder for what can be made again; serving honours it too.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "train" / "configs"
# What can be made again: data sets, checkpoints, bundles.
CACHE = Path(os.environ.get("TWINSPIRE_CACHE") or ROOT / ".cache").absolute()
MLRUNS = ROOT / "mlruns"  # MLflow's own: mlflow.db and artifacts/
