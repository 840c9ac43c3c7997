"""Gate `load_time`: the seconds until the bundle is verified, loaded and warm.

This gate also refuses if one of the bundles fails while it is loaded, searched or timed.
"""

from statistics import median

from export.benchmark.isolated_process import ProcessFailure
from export.release.gate import Comparison, Gate, GateResult, Judgement

LOADS = 3  # of each bundle; the median counts


def judge(comparison: Comparison) -> Judgement:
    """The result, and the median seconds of each bundle."""
    found = comparison.served
    if isinstance(found, ProcessFailure):
        return _failed(found, comparison.gates.max_load_seconds), {"error": found.text}
    seconds = {name: median(each) for name, each in found["load_s"].items()}
    figure, bound = seconds["challenger"], comparison.gates.max_load_seconds
    against = f" against {seconds['champion']:.2f} s of the champion" if "champion" in seconds else ""
    text = f"verified, loaded and warm in {figure:.2f} s{against}"
    return GateResult("load_time", figure, bound, figure <= bound, text), seconds


def _failed(failure: ProcessFailure, bound: float) -> GateResult:
    text = f"{f'the {failure.bundle}' if failure.bundle else 'measuring'} failed while {failure.text}"
    if failure.bundle == "champion":
        text += "; nothing can be compared with it"
    return GateResult("load_time", None, bound, False, text)


GATES = (
    Gate(
        name="load_time",
        title="time to load",
        order=70,
        judge=judge,
        shown=lambda figure: f"{figure:.2f} s",
        measured_as="load",
        request=lambda _experiment: {"loads": LOADS},
        bundle_row="load",
    ),
)
