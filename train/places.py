"""Where things are kept: all of it under the checkout, all of it out of git."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "train" / "configs"
CACHE = ROOT / ".cache"  # what can be made again: data sets, checkpoints, bundles
MLRUNS = ROOT / "mlruns"  # MLflow's own: mlflow.db and artifacts/
