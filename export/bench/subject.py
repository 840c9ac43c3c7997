"""What a bench is of: a bundle, the towers of its run in torch, and real records."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from export import graph, precision
from export.bench.figures import PLAIN, SERVED
from export.bench.plan import SIDES
from export.bench.towers import EXPORTED, Forms
from protos.bundle import ITEM_TOWER, QUERY_TOWER, Manifest, Variant
from protos.features import Side
from protos.huge_pages import on_huge_pages
from train.config import PrecisionConfig
from train.model import restore
from train.problem import Problem
from train.tracking import get_run

FILES: dict[Side, str] = {"query": QUERY_TOWER, "item": ITEM_TOWER}
SIZE_SHARES: dict[Side, str] = {"query": "chosen_size_share", "item": "item_chosen_size_share"}
RECORDS = 2000  # of each side


@dataclass(frozen=True)
class Subject:
    """A bundle that was verified.

    Args:
        manifest: of that bundle.
    """

    folder: Path
    manifest: Manifest

    def variant(self, side: Side) -> Variant:
        """The variant of a tower that the bundle holds."""
        own = self.manifest.precision
        return own.query if side == "query" else own.item


def size_shares(forms: Mapping[Side, Forms]) -> dict[str, float]:
    """Bytes of each tower as it is served, over those in float32."""
    sizes = {
        side: {name: path.stat().st_size for name, path in each.variants.items()}
        for side, each in forms.items()
    }
    return {SIZE_SHARES[side]: each[SERVED] / each[PLAIN] for side, each in sizes.items()}


def forms_of(subject: Subject, problem: Problem, config: PrecisionConfig, scratch: Path) -> dict[Side, Forms]:
    """Both towers in torch and as ONNX: as served, in every precision, and as the exporter leaves them.

    Args:
        problem: whose test part the records are of.
        config: how the variants are made that the bundle does not hold.
        scratch: a folder for what the bundle does not hold.

    Raises:
        MissingStage: the run that trained the bundle's towers is not known, or holds none.
    """
    towers = restore(get_run(subject.manifest.run_id)).towers
    forms = {}
    for side, trained in zip(SIDES, towers, strict=True):
        inputs = subject.manifest.schema.side(side)
        with on_huge_pages():  # as the ONNX files that it is held against
            tower = graph.frozen(trained)
        values: dict[str, list[Any]] = problem.sample(side, "test", RECORDS, seed=0)
        few = inputs.to_arrays({name: (column * 2)[:2] for name, column in values.items()})
        path = scratch / f"{side}-{EXPORTED}.onnx"
        onnx.save_model(graph.as_exported(tower, inputs.features, few), path)
        plain = scratch / f"{side}.onnx"
        graph.export_tower(tower, inputs.features, few, plain)
        wanted = [name for name in precision.VARIANTS if name != subject.variant(side)]
        training = partial(precision.calibration, problem, side, inputs, config)
        made = precision.make_variants(plain, scratch, training, wanted)
        files: dict[str, Path] = {SERVED: subject.folder / FILES[side], EXPORTED: path}
        files |= dict(made.files.items())
        forms[side] = Forms(inputs, tower, files, values)
    return forms
