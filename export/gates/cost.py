"""Gates `bundle_size` and `load_time`: what a bundle costs before it answers anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from export.gates.apart import Failure
from export.gates.decision import Gate, Side
from train.config import Experiment

LOADS = 3
MIB = 2**20


def judge_size(
    challenger: Side, champion: Side | None, experiment: Experiment
) -> tuple[Gate, dict[str, float]]:
    """The gate, and the MiB of each bundle, all files together."""
    config = experiment.gates
    sizes = {"challenger": _mib(challenger.folder)}
    bound, beside = config.max_size_mib, ""
    if champion is not None:
        sizes["champion"] = _mib(champion.folder)
        bound = min(bound, config.max_size_ratio * sizes["champion"])
        beside = f" against {sizes['champion']:.1f} MiB of the champion"
    figure = sizes["challenger"]
    return Gate("bundle_size", figure, bound, figure <= bound, f"{figure:.1f} MiB{beside}"), sizes


def judge_load(experiment: Experiment, found: Mapping[str, Sequence[float]]) -> tuple[Gate, dict[str, float]]:
    """The gate, and the median seconds of each bundle.

    Args:
        found: bundle -> seconds of each load: verified, loaded and warm.
    """
    seconds = {name: median(each) for name, each in found.items()}
    figure, bound = seconds["challenger"], experiment.gates.max_load_seconds
    beside = f" against {seconds['champion']:.2f} s of the champion" if "champion" in seconds else ""
    text = f"verified, loaded and warm in {figure:.2f} s{beside}"
    return Gate("load_time", figure, bound, figure <= bound, text), seconds


def broken(experiment: Experiment, failure: Failure) -> Gate:
    """The gate where a bundle could not be loaded, or did not bear being measured."""
    whose = f"the {failure.bundle}" if failure.bundle else "measuring"
    text = f"{whose} failed while {failure.text}"
    if failure.bundle == "champion":
        text += "; nothing can be compared with it"
    return Gate("load_time", None, experiment.gates.max_load_seconds, False, text)


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MIB
