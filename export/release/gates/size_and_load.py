"""Gates `bundle_size` and `load_time`: what a bundle takes before it answers.

`bundle_size` is the size of all files of the bundle together. The bound is `max_size_mib`, or
`max_size_ratio` times the champion's size if that is smaller.

`load_time` is the seconds until the bundle is verified, loaded and warm. It also refuses if one of the
bundles fails while it is loaded, searched or timed.
"""

from pathlib import Path
from statistics import median

from twinspire.export.benchmark.isolated_process import ProcessFailure
from twinspire.export.release.gate import Comparison, Gate, GateResult, Judgement

MIB = 2**20
LOADS = 3  # of each bundle; the median counts


def judge_size(comparison: Comparison) -> Judgement:
    """The result, and the MiB of each bundle."""
    files = {name: filter(Path.is_file, each.folder.rglob("*")) for name, each in comparison.versions.items()}
    sizes = {name: sum(path.stat().st_size for path in each) / MIB for name, each in files.items()}
    bound, against = comparison.gates.max_size_mib, ""
    if "champion" in sizes:
        bound = min(bound, comparison.gates.max_size_ratio * sizes["champion"])
        against = f" against {sizes['champion']:.1f} MiB of the champion"
    figure = sizes["challenger"]
    return GateResult("bundle_size", figure, bound, figure <= bound, f"{figure:.1f} MiB{against}"), sizes


def judge_load_time(comparison: Comparison) -> Judgement:
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
        name="bundle_size",
        title="size of the bundle",
        order=60,
        judge=judge_size,
        shown=lambda figure: f"{figure:,.1f} MiB",
        measured_as="size",
    ),
    Gate(
        name="load_time",
        title="time to load",
        order=70,
        judge=judge_load_time,
        shown=lambda figure: f"{figure:.2f} s",
        measured_as="load",
        request=lambda _experiment: {"loads": LOADS},
    ),
)
