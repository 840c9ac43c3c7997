"""What a bench is of: a bundle, the towers of its run in torch, and real records."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import graph
from export.bench.exported import export_unchanged
from export.bench.figures import PLAIN
from export.bench.plan import SIDES
from export.bench.towers import EXPORTED, Forms
from protos import bundle
from protos.bundle import Manifest
from protos.features import Side
from train.model import restore
from train.problem import Problem
from train.tracking import get_run

TOWERS: dict[Side, str] = {"query": bundle.QUERY_TOWER, "item": bundle.ITEM_TOWER}
RECORDS = 2000  # of each side

Variants = Mapping[str, Mapping[Side, Path]]


@dataclass(frozen=True)
class Subject:
    """A bundle that was verified.

    Args:
        variants: name -> side -> ONNX file, for every precision that there is.
        chosen: the name of the one that is served.
    """

    folder: Path
    manifest: Manifest
    variants: Variants
    chosen: str

    @property
    def size_share(self) -> float | None:
        """Bytes of both towers as they are served, over those of the plain ones; None without those."""
        sizes = {
            name: sum(path.stat().st_size for path in files.values()) for name, files in self.variants.items()
        }
        return sizes[self.chosen] / sizes[PLAIN] if PLAIN in sizes else None


def subject_of(
    folder: Path, manifest: Manifest, variants: Variants | None = None, chosen: str = PLAIN
) -> Subject:
    """A bundle as what is measured.

    Args:
        manifest: of that bundle, which has been verified.
        variants: beside the bundle's own towers, which are the chosen one.
    """
    own = {side: folder / tower for side, tower in TOWERS.items()}
    return Subject(folder, manifest, {chosen: own, **(variants or {})}, chosen)


def forms_of(subject: Subject, problem: Problem, scratch: Path) -> dict[Side, Forms]:
    """Both towers, in torch and as ONNX, the graph that was not rewritten among them.

    Args:
        problem: whose test part the records are of.
        scratch: a folder for that graph.

    Raises:
        MissingStage: the run that trained the bundle's towers is not known, or holds none.
    """
    towers = restore(get_run(subject.manifest.run_id)).towers
    forms = {}
    for side, trained in zip(SIDES, towers, strict=True):
        tower, inputs = graph.frozen(trained), subject.manifest.schema.side(side)
        values: dict[str, list[Any]] = problem.sample(side, "test", RECORDS, seed=0)
        few = inputs.to_arrays({name: (column * 2)[:2] for name, column in values.items()})
        path = scratch / f"{side}-{EXPORTED}.onnx"
        export_unchanged(tower, inputs, few, path)
        files = {name: each[side] for name, each in subject.variants.items()}
        forms[side] = Forms(inputs, tower, {**files, EXPORTED: path}, values)
    return forms
