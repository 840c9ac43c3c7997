"""Towers that begin with trained weights answer as those did, whatever their vocabularies are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.helpers.stdlib import Sections, completed, experiment_at
from tests.helpers.watched import ASKED, ATTENTION, COMIREC, RATINGS, SUM, write_toml
from twinspire.protos.features import ITEM_VOCABULARY
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.training.trained_model import Model, build_model
from twinspire.train.training.trainer import Callbacks, Trainer

KINDS: Mapping[str, Sections] = {
    "attention": ATTENTION, "sum": SUM, "comirec": COMIREC, "clicks": RATINGS, "bag": ASKED
}  # fmt: skip


def trained_on(path: Path, start: Model | None = None) -> tuple[Model, Any, Any]:
    """A model after an epoch, or at a warm start, with its data and prepared inputs."""
    experiment, dataset = experiment_at(path)
    experiment, data = completed(experiment, dataset)
    model, prepared = build_model(experiment, data, start=start)
    if start is None:
        trainer = Trainer(model.towers, data, prepared, experiment.loss, experiment.training)
        trainer.fit(Callbacks())
        architecture_of(experiment.tower).fit_unseen(model.towers, prepared[1], data.counts())
    for tower in model.towers:
        tower.eval()
    return model, data, prepared


def vectors(model: Model, side: int, prepared: Any, rows: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.towers[side](prepared[side].batch(np.asarray(rows)))
    return found


@pytest.fixture
def logs(films: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a log without every tenth film, and one with all, in another order of popularity."""
    log = pl.read_csv(films / "log.csv", infer_schema=False)
    old = log.filter(pl.col("film").str.slice(1).cast(pl.Int64) % 10 > 0)
    new = pl.concat([log, log.filter(pl.col("film") < "f040"), log.filter(pl.col("film") == "f110")])
    for name, frame in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        frame.write_csv(tmp_path / name / "log.csv")
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.parametrize("kind", [*KINDS])
def test_a_warm_start_answers_as_the_trained_towers(logs: tuple[Path, Path], kind: str) -> None:
    quick = {**KINDS[kind]["training"], "epochs": 1} if "training" in KINDS[kind] else {"epochs": 1}
    old_toml, new_toml = (
        write_toml(each, each / "a.toml", "watched", KINDS[kind], training=quick, data={"repeats": "keep"})
        for each in logs
    )
    first, old_data, old_prepared = trained_on(old_toml)
    warm, data, prepared = trained_on(new_toml, first)
    vocabularies = [model.schema.vocabularies.get(ITEM_VOCABULARY, ()) for model in (first, warm)]
    if vocabularies[0]:
        assert vocabularies[0] != vocabularies[1][: len(vocabularies[0])]
        assert {*vocabularies[0]} < {*vocabularies[1]}
    row_of = {each: row for row, each in enumerate(old_data.item_ids)}
    known = [(row_of[each], row) for row, each in enumerate(data.item_ids) if each in row_of]
    before = vectors(first, 1, old_prepared, [old for old, _ in known])
    torch.testing.assert_close(
        vectors(warm, 1, prepared, [new for _, new in known]), before, atol=1e-5, rtol=1e-4
    )
    new = [row for row, each in enumerate(data.item_ids) if each not in row_of]
    values = {name: [column[row] for row in new] for name, column in data.items.items()}
    served = architecture_of(first.experiment.tower).prepare(first.schema, "item", values)
    with torch.no_grad():
        as_unknown = first.towers[1](served.batch(np.arange(len(new))))
    torch.testing.assert_close(vectors(warm, 1, prepared, new), as_unknown, atol=1e-5, rtol=1e-4)


def test_queries_of_known_items_are_encoded_alike(logs: tuple[Path, Path]) -> None:
    old_toml, new_toml = (write_toml(each, each / "a.toml", training={"epochs": 1}) for each in logs)
    first, old_data, _ = trained_on(old_toml)
    warm, _, _ = trained_on(new_toml, first)
    both = [
        architecture_of(each.experiment.tower).prepare(each.schema, "query", old_data.queries)
        for each in (first, warm)
    ]
    rows = np.arange(40)
    old, new = (vectors(model, 0, (each,), rows) for model, each in zip((first, warm), both, strict=True))
    torch.testing.assert_close(new, old, atol=1e-5, rtol=1e-4)
