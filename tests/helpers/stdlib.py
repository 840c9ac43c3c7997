"""A small real data set, and what is made of it: docstrings of some modules of the standard library.

The query is a docstring's first sentence, the item its qualified name and the rest: some 700 pairs of
real English, the same as `pydocs` reads, but as files of a user's own. Beside the texts stand made-up
features of the other kinds.
"""

import io
import json
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from matplotlib.figure import Figure
from mlflow.entities import Run
from rich.console import Console

from tests.helpers.shared import shared_folder
from twinspire.export.bundle_builder import build_bundle
from twinspire.export.bundles import BUNDLES
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.data.dataset import CACHE as DATA
from twinspire.train.data.dataset import Dataset, prepare
from twinspire.train.data.sources import pydocs
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.models.defaults import from_data
from twinspire.train.training.process import SINGLE_PROCESS, TrainingProcess
from twinspire.train.training.run import fit
from twinspire.train.training.run_metrics import metrics_of
from twinspire.train.training.tracking import connect
from twinspire.train.training.trained_model import Model, build_model

MODULES = (
    "argparse ast bisect calendar cmd codecs configparser csv datetime decimal difflib doctest "
    "fileinput fractions functools gettext heapq inspect locale mailbox optparse os pathlib pdb pickle "
    "platform plistlib pprint random shutil smtplib socket statistics string subprocess tarfile "
    "textwrap threading tokenize traceback turtle typing uuid zipfile"
).split()

Sections = Mapping[str, Mapping[str, Any]]

PLAIN: Sections = {
    "split": {"validation": 0.15, "test": 0.15, "seed": 44},  # parts of about their shares of the pairs
    "query.text": {"kind": "text", "column": "query", "max_length": 96},
    "item.text": {"kind": "text", "column": "text", "catalogue_column": "full_text", "max_length": 256},
    "tower": {"kind": "bag", "dimension": 64, "latent": 16, "buckets": 8192, "item_hidden": 32},
    "loss": {"kind": "in_batch_softmax", "hard_negatives": 1},
    "training": {"epochs": 3, "batch_size": 64, "threads": 1},
    "export": {"iterations": 20},
    "index": {"threads": 1, "m": 8, "ef_construction": 100, "search": "graph"},
    "gates": {"iterations": 2500},
}
DSSM: Sections = {
    **PLAIN,
    "tower": {"kind": "dssm", "dimension": 16, "hidden": [24], "buckets": 2048},
    "loss": {"kind": "sampled_softmax"},
}
FEATURES: Sections = {
    **PLAIN,
    "query.level": {"kind": "category", "column": "level"},
    "query.terms": {"kind": "category", "column": "terms", "multi": True},
    "query.words": {"kind": "number", "column": "words"},
    "item.package": {"kind": "category", "column": "package", "min_count": 1},
    "item.parts": {"kind": "category", "column": "parts", "multi": True},
    "item.length": {"kind": "number", "column": "length"},
}

# What an export does beyond towers, vectors and index, left out where a test looks at none of it.
QUICK: Sections = {
    "export": {"iterations": 5},
    "precision": {"query": "fp32", "item": "fp32"},
    "hybrid": {"enabled": False},
    "baselines": {"run": ["bm25", "popularity"]},
}
FEW: Mapping[str, Any] = {"max_items": 150}
_DRAWN: dict[str, bytes] = {}  # pictures by the names of their files


def write_tables(folder: Path) -> Path:
    """Write `items.parquet` and `pairs.parquet`, with features of every kind, into a folder."""
    (folder / "lib").mkdir()
    for name in MODULES:
        path = Path(sysconfig.get_path("stdlib"), f"{name}.py")
        if path.is_file():  # later versions of Python have made packages of some
            shutil.copy(path, folder / "lib")
    tables = pydocs.read(Console(file=io.StringIO()), [folder / "lib"])
    items = tables.items.with_columns(
        parts=pl.col("name").str.split("."),
        length=pl.when(pl.int_range(pl.len()) % 7 > 0).then(pl.col("text").str.len_chars()),
    )
    words = pl.col("query").str.split(" ")
    pairs = tables.pairs.collect().select(
        "query",
        "group",
        item_id=items["item_id"].gather(tables.pairs.collect()["item_row"]),
        level=pl.when(pl.int_range(pl.len()) % 5 > 0).then(
            pl.when(words.list.len() > 8).then(pl.lit("long")).otherwise(pl.lit("short"))
        ),
        terms=words.list.eval(pl.element().filter(pl.element().str.len_chars() > 6)),
        words=pl.when(pl.int_range(pl.len()) % 3 > 0).then(words.list.len()),
    )
    items.write_parquet(folder / "items.parquet")
    pairs.write_parquet(folder / "pairs.parquet")
    return folder


def write_toml(
    stdlib: Path, path: Path, name: str = "stdlib", sections: Sections = PLAIN, **changed: Mapping[str, Any]
) -> Path:
    """Write an experiment on the tables in `stdlib`.

    Args:
        changed: section -> keys of it that shall be something else.
    """
    data = {
        "kind": "files",
        "items": str(stdlib / "items.parquet"),
        "pairs": str(stdlib / "pairs.parquet"),
        "display": ["name", "summary"],
        "group": "group",
    }
    return write_sections(path, name, {"data": data, **sections}, changed)


def write_sections(path: Path, name: str, sections: Sections, changed: Sections) -> Path:
    """Write an experiment, section by section, some keys of which are changed or added."""
    lines = [f'name = "{name}"']
    for section, values in {**sections, **{each: {} for each in changed if each not in sections}}.items():
        lines.append(f"[{section}]")
        for key, value in {**values, **changed.get(section, {})}.items():
            lines.append(f"{key} = {json.dumps(value)}")  # of these values, JSON is TOML
    path.write_text("\n".join(lines) + "\n")
    return path


def experiment_at(path: Path) -> tuple[Experiment, Dataset]:
    experiment = read_experiment(path)
    return experiment, prepare(experiment, path.parent, console=Console(file=io.StringIO()))


def completed(experiment: Experiment, dataset: Dataset) -> tuple[Experiment, TrainingData]:
    """An experiment with every key set, and its data as its towers read them."""
    training_data = training_data_of(dataset, experiment.query, experiment.item)
    experiment = from_data(experiment, training_data).experiment
    return experiment, training_data.as_read_by(experiment.query)


def started(path: Path, process: TrainingProcess = SINGLE_PROCESS) -> tuple[Model, TrainingData, Any]:
    """An experiment's model at its start, its training_data, and both sides as its towers read them."""
    experiment, dataset = experiment_at(path)
    experiment, training_data = completed(experiment, dataset)
    model, prepared = build_model(experiment, training_data, process=process)
    return model, training_data, prepared


@contextmanager
def tracking_at(uri: str) -> Iterator[str]:
    """MLflow points at a store, in this process and those it starts, for as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        if uri:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            connect()
        else:
            patch.setenv("MLFLOW_TRACKING_URI", "")
        try:
            yield uri
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
            mlflow.set_registry_uri(None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Made:
    """A run and its bundle.

    Args:
        config: the experiment's TOML.
        uri: of the MLflow store that the run is in.
        folder: of the bundle.
    """

    config: Path
    uri: str
    experiment: Experiment
    dataset: Dataset
    run: Run
    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of the run, by their names in code."""
        with tracking_at(self.uri):
            return metrics_of(self.run)


@contextmanager
def tracking_copy(made: Made, folder: Path) -> Iterator[str]:
    """MLflow points at a copy of the store of `made`, which a test may write to."""
    store = shutil.copy(made.uri.removeprefix("sqlite:///"), folder)
    with tracking_at(f"sqlite:///{store}") as uri:
        yield uri


def make(
    stdlib: Path, empty_store: Path, folder: Path, name: str = "stdlib", sections: Sections = PLAIN
) -> Made:
    """Train an experiment on the tables in `stdlib`, and build its bundle, in `folder`."""
    return make_of(write_toml(stdlib, folder / f"{name}.toml", name, sections), empty_store, folder)


@contextmanager
def drawn_once() -> Iterator[None]:
    """Patches `Figure.savefig`: of all figures with one file name, or none, only the first becomes a picture.

    The others are laid out, so that a figure that fails or warns still fails its test; their files hold the
    first picture. No test may look at what such a file shows.
    """
    draw = Figure.savefig

    def save(figure: Figure, place: Path | io.BytesIO, **named: Any) -> None:
        name = place.name if isinstance(place, Path) else ""  # those that are not files have one picture
        if name in _DRAWN:
            figure.draw_without_rendering()
        else:
            content = io.BytesIO()
            draw(figure, content, **named)
            _DRAWN[name] = content.getvalue()
        (place.write_bytes if isinstance(place, Path) else place.write)(_DRAWN[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


def make_of(config: Path, empty_store: Path, folder: Path) -> Made:
    """Train an experiment in a store of its own in `folder`, and build its bundle, under `drawn_once`."""
    console = Console(file=io.StringIO())
    experiment, dataset = experiment_at(config)
    with drawn_once(), tracking_at(f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}") as uri:
        run, _ = fit(experiment, dataset, console)
        bundle, _ = build_bundle(experiment, dataset, run)
        run = mlflow.get_run(run.info.run_id)
    return Made(config, uri, experiment, dataset, run, bundle)


def shared_made(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """A run and its bundle, made by the first of the processes that run the tests, for all of them.

    Args:
        name: of what is made, which no other test gives to anything else.
        make: trains and exports in an empty folder, in which it also writes the experiment's TOML.
    """
    packed = shared_folder(factory, name, lambda folder: _pack(make(folder)))
    return _unpack(packed, factory.mktemp(name))


def _pack(made: Made) -> None:
    """Write what was made, beside its TOML, for `_unpack` in any process."""
    folder = made.config.parent
    shutil.copytree(made.folder, folder / "bundles" / made.folder.name)
    shutil.copytree(made.dataset.folder, folder / "data" / made.dataset.folder.name)
    what = {"config": made.config.name, "run": made.run.info.run_id, "bundle": made.folder.name}
    (folder / "made.json").write_text(json.dumps(what))


def _unpack(packed: Path, folder: Path) -> Made:
    """What was packed, as if it had been made here: its store in `folder`, all else in this process's cache.

    The artifacts of the run stay where they are; nothing else is shared between processes.
    """
    what = json.loads((packed / "made.json").read_text())
    for name, cache in (("bundles", BUNDLES), ("data", DATA)):
        shutil.copytree(packed / name, cache, dirs_exist_ok=True)
    experiment, data = experiment_at(packed / what["config"])
    with tracking_at(f"sqlite:///{shutil.copy(packed / 'mlflow.db', folder)}") as uri:
        run = mlflow.get_run(what["run"])
    return Made(packed / what["config"], uri, experiment, data, run, BUNDLES / what["bundle"])
