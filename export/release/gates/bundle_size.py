"""Gate `bundle_size`: the size of all files of the bundle together.

The bound is `max_size_mib`, or `max_size_ratio` times the champion's size if that is smaller.
"""

from pathlib import Path

from export.release.gate import Comparison, Gate, GateResult, Judgement

MIB = 2**20


def judge(comparison: Comparison) -> Judgement:
    """The result, and the MiB of each bundle."""
    sizes = {name: _mib(each.folder) for name, each in comparison.versions.items()}
    bound, against = comparison.gates.max_size_mib, ""
    if "champion" in sizes:
        bound = min(bound, comparison.gates.max_size_ratio * sizes["champion"])
        against = f" against {sizes['champion']:.1f} MiB of the champion"
    figure = sizes["challenger"]
    return GateResult("bundle_size", figure, bound, figure <= bound, f"{figure:.1f} MiB{against}"), sizes


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MIB


GATES = (
    Gate(
        name="bundle_size",
        title="size of the bundle",
        order=60,
        judge=judge,
        shown=lambda figure: f"{figure:,.1f} MiB",
        measured_as="size",
        bundle_row="size",
    ),
)
