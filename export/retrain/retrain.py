"""All steps of a retraining, in order.

    newest data -> towers, warm and maybe from scratch -> the better of them -> bundle -> gates -> champion

Warm towers begin with the champion's weights, and have its features, architecture and loss, as its run holds
them. Towers from scratch are what the TOML says; a share of the retrainings has them (`[retrain]`), and each
without a champion.

A retraining notes champion, cut-off time and catalogue when it begins, and its data set when that is made.
Each stage finds what an earlier process has done by its key, so a retraining that was killed, or for which a
server did not answer, goes on with the same command; after an error of data or settings the next one begins
anew. When it has ended, an MLflow run with the key of its data and settings holds the summary, and the same
inputs are not trained on again. One retraining of a model runs at a time on a host; `promote` refuses if the
champion has moved.
"""

import dataclasses
from argparse import Namespace
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from rich.console import Console

from twinspire.export.bundle_builder import build_bundle
from twinspire.export.refresh import sources
from twinspire.export.refresh.merge import Champion
from twinspire.export.refresh.table import catalogue_table, write_table
from twinspire.export.refresh.work import RefreshFolder
from twinspire.export.release import registry
from twinspire.export.release.promote import promote
from twinspire.export.release.registry import CHAMPION, AliasState
from twinspire.export.terminal import show_record
from twinspire.protos.errors import ConfigError, DataError, GateRefused, MissingStage, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.train.config import Experiment
from twinspire.train.config.losses import learns_from_negatives
from twinspire.train.data.columns import column_names
from twinspire.train.data.dataset import CACHE as DATA
from twinspire.train.data.dataset import Dataset, load, open_source, prepare
from twinspire.train.data.sources.service import ServiceData, ServiceSource
from twinspire.train.fingerprint import fingerprint
from twinspire.train.metrics import metric_label
from twinspire.train.paths import CACHE
from twinspire.train.progress import PROGRESS
from twinspire.train.training.run import fit
from twinspire.train.training.run_metrics import metrics_of
from twinspire.train.training.tracking import (
    find_run,
    finished_count,
    get_run,
    mlflow_errors,
    tracked_run,
)
from twinspire.train.training.trained_model import load_model
from twinspire.train.training.validated import lead_on_validation

STAGE = "retrain"  # of its runs
SUMMARY = "retrain.json"  # artifact of such a run
WORK = CACHE / "retrain"
WARM, SCRATCH = "warm", "scratch"


def command(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """The command `retrain`."""
    return retrain(experiment, arguments.config.parent, arguments.catalogue)


def retrain(experiment: Experiment, base: Path, catalogue: str = "") -> dict[str, Any]:
    """Train on the newest data, and promote the better towers if all gates hold.

    Args:
        base: folder of the TOML file.
        catalogue: URL of the store of live items; empty for that of the service, if there is one.

    Returns:
        A document with `model` and `alias` of the champion now; `champion`, the version that was champion
        before, empty if there was none; `data`, lines about them; `candidates`, the towers, those that went
        on first, with their `kind`, `run_id`, and the `metric` that selects epochs on validation at the
        `start` and of those that are kept (`validation`); their `comparison`; `notes` on what could not be
        done; `version` and `bundle`; why gates have `refused` it, or else an empty text; whether it was
        `promoted`; `move` and `decision` of the promotion; and whether these inputs were trained on before
        (`done_before`).

    Raises:
        DataError: the data are invalid, or no answer is closed yet.
        ConfigError: the store of events cannot be read, or this machine lacks the device.
        MissingStage: the champion's run is not known, or a process that is needed is not installed.
        Unavailable: another retraining is at work, the aliases were moved meanwhile, or MLflow or the store
            of live items does not answer.
    """
    name = experiment.name
    busy = Unavailable(f"{name}: another retraining is at work on this host")
    with exclusive_lock(WORK / f"{name}.lock", busy=busy), mlflow_errors():
        found = _Retraining(experiment, base, catalogue).run()
    champion = AliasState.of(name).champion
    model = f"models:/{name}/{champion}" if champion else ""
    return {"model": model, "alias": CHAMPION if champion else "", **found}


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was new, the figures of the towers, the decision, and why."""
    say = partial(console.print, soft_wrap=True)
    for line in result["data"]:
        say(line)
    for each in result["candidates"]:
        say(
            f"{each['kind']}: {each['metric']} on validation {each['start']:.4f} at the start, "
            f"{each['validation']:.4f} at the end (run {each['run_id']})"
        )
    for line in (*filter(None, [result["comparison"]]), *result["notes"]):
        say(line)
    if result["done_before"]:
        outcome = "refused" if result["refused"] else "promoted"
        say(
            f"nothing to do: these data were trained on before, and version {result['version']} was {outcome}"
        )
    elif not result["refused"]:
        show_record(result, console)
    if result["refused"]:
        say(result["refused"], style="yellow")
        say(f"{result['model']} stays {result['alias']}" if result["model"] else "there is no champion")


@dataclass
class _Retraining:
    """One retraining, by the process that holds its lock.

    Args:
        base: folder of the TOML file.
        catalogue: URL of the store of live items; empty for that of the service, if there is one.
    """

    experiment: Experiment
    base: Path
    catalogue: str = ""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.experiment.name
        self.work = RefreshFolder(self.name, WORK)

    def run(self) -> dict[str, Any]:
        try:
            return self._run()
        except (DataError, ConfigError, MissingStage, ValueError):
            self.work.end()  # with the same cut-off time the next one would fail alike
            raise

    def _run(self) -> dict[str, Any]:
        begun, is_new = self._begin()
        experiment = self._with_data(begun)
        dataset = self._dataset(experiment, is_new)
        key = fingerprint(dataset.report["fingerprint"], dataclasses.asdict(experiment))
        done = find_run(self.name, STAGE, key)
        if done is not None:
            self.work.end()
            return mlflow.artifacts.load_dict(f"runs:/{done.info.run_id}/{SUMMARY}") | {"done_before": True}
        lines = [f"items: {dataset.items.height:,}", *dataset.report["origin"].get("notes", ())]
        champion = None
        if begun["champion"]:
            with PROGRESS.status("fetching the champion"):
                known = Champion.read(*registry.fetch(self.name, begun["champion"]))
            champion = get_run(known.manifest.run_id)
            new = len({*dataset.items["item_id"]} - {*known.items.ids})
            lines[0] += f", of which the champion does not have {new:,}"
        settings = self._settings(experiment, dataset, champion)
        runs = {kind: self._fit(kind, each, dataset, champion) for kind, each in settings.items()}
        kind, comparison = _better(runs, experiment)
        folder, _ = build_bundle(settings[kind], dataset, runs[kind])
        version = str(registry.register(folder)[0].version)
        self.work.note(version=version)
        found = {
            "champion": begun["champion"],
            "data": lines,
            "candidates": [_candidate(each, runs[each], experiment) for each in (kind, *({*runs} - {kind}))],
            "comparison": comparison,
            "notes": self.notes,
            "version": version,
            "bundle": str(folder),
            **self._promoted(settings[kind], dataset, version, comparison),
        }
        with tracked_run(self.name, STAGE, key) as run_id:
            mlflow.log_dict(found, SUMMARY, run_id)
        self.work.end()
        return found | {"done_before": False}

    def _begin(self) -> tuple[dict[str, str], bool]:
        """What this retraining was begun with; and whether by this process, not by one that was killed."""
        state, champion = self.work.state, AliasState.of(self.name).champion
        begun = state.begun_with
        settings = fingerprint(dataclasses.asdict(self.experiment), self.catalogue)
        is_same = champion == begun.get("champion") or (state.version and champion == state.version)
        if begun.get("settings") == settings and is_same:
            PROGRESS.print("going on with a retraining that was interrupted")
            return begun, False
        begun = {
            "champion": champion,
            "settings": settings,
            "until": self._cutoff(),
            "scratch": str(self._is_from_scratch(champion)),
            "items": "",
        }
        self.work.begin(begun)
        begun["items"] = self._catalogue(begun)
        self.work.note(begun_with=begun)
        return begun, True

    def _cutoff(self) -> str:
        """The cut-off time of the data of a service, which is fixed from now on; empty of other data."""
        source = open_source(self.experiment, self.base, DATA, False, PROGRESS)
        if not isinstance(source, ServiceSource):
            return ""
        return datetime.fromtimestamp(source.period.cutoff, UTC).isoformat()

    def _is_from_scratch(self, champion: str) -> bool:
        """Whether towers are trained from scratch this time: evenly spread over the retrainings."""
        share, before = self.experiment.retrain.scratch_share, finished_count(self.name, STAGE)
        return not champion or int((before + 1) * share + 1e-9) > int(before * share + 1e-9)

    def _catalogue(self, begun: dict[str, str]) -> str:
        """Path of a table with the items as they stand in the store of live items; empty if there is none."""
        data = self.experiment.data
        if not isinstance(data, ServiceData):
            if self.catalogue:
                raise DataError(f'--catalogue: expected data of kind "service", got "{data.kind}"')
            return ""
        if not sources.take_snapshot(self.catalogue, self.work.changes, None):
            return ""
        dataset = prepare(self._with_data(begun), self.base, console=PROGRESS)
        changes = sources.read_snapshot(self.work.changes)[1]
        display = dataset.report["display"]
        output = self.work.folder / "items.parquet"
        write_table(catalogue_table(dataset.items, self.experiment.item, display, changes), output)
        return str(output)

    def _with_data(self, begun: dict[str, str]) -> Experiment:
        """The experiment with data up to the cut-off time, and the items of the catalogue."""
        data = self.experiment.data
        if not isinstance(data, ServiceData):
            return self.experiment
        data = dataclasses.replace(data, until=begun["until"], items=begun["items"] or data.items)
        return dataclasses.replace(self.experiment, data=data)

    def _dataset(self, experiment: Experiment, is_new: bool) -> Dataset:
        """The data set; that of the process which began, if it has made one, also if the log has changed."""
        begun = self.work.state.begun_with
        folder = Path(begun.get("dataset", ""))
        if folder.name and folder.is_dir():
            found = load(folder)
            return dataclasses.replace(found, report=found.report | {"name": self.name})
        refresh = is_new and experiment is self.experiment  # data of other kinds may be a download
        found = prepare(experiment, self.base, refresh=refresh, console=PROGRESS)
        self.work.note(begun_with={**begun, "dataset": str(found.folder)})
        return found

    def _settings(
        self, experiment: Experiment, dataset: Dataset, champion: Run | None
    ) -> dict[str, Experiment]:
        """`WARM` and `SCRATCH` -> the experiment of each, of those that are to be trained."""
        found = {SCRATCH: experiment}
        if champion is None:
            return found
        try:
            known = load_model(champion).experiment
            read = {*column_names(known.query)} - {*dataset.column_names}
            read |= {*column_names(known.item)} - {*dataset.items.columns}
            if read:
                raise DataError(f"its towers read {', '.join(sorted(read))}, which these data do not have")
            if learns_from_negatives(known.loss) != learns_from_negatives(experiment.loss):
                raise DataError(
                    f"its loss is {known.loss.kind}, and [loss] is {experiment.loss.kind}: of these, one "
                    "alone learns from negative pairs"
                )
            parts = {name: getattr(known, name) for name in ("query", "item", "tower", "loss")}
            warm = {WARM: dataclasses.replace(experiment, **parts)}
        except (DataError, MissingStage, ValueError) as error:
            self.notes.append(f"the champion cannot be trained on, so towers are from scratch alone: {error}")
            return found
        return warm | found if self.work.state.begun_with["scratch"] == "True" else warm

    def _fit(self, kind: str, experiment: Experiment, dataset: Dataset, champion: Run | None) -> Run:
        """Train towers, or find those that an earlier process has trained."""
        PROGRESS.print(f"training {kind} towers")
        start = champion if kind == WARM else None
        command = "python -m twinspire.export retrain"
        return fit(experiment, dataset, PROGRESS, None, command, start=start)[0]

    def _promoted(
        self, experiment: Experiment, dataset: Dataset, version: str, comparison: str
    ) -> dict[str, Any]:
        """Record and decision of the promotion, or why gates refuse it; the audit log has either."""
        reason = "; ".join(filter(None, ["retrained", comparison, *self.notes]))
        try:
            done = promote(experiment, lambda: dataset, reason=reason, expected=version)
        except GateRefused as error:
            return {"refused": str(error), "promoted": False, "move": None, "decision": None}
        return {"refused": "", "promoted": True, "move": done["move"], "decision": done["decision"]}


def _better(runs: dict[str, Run], experiment: Experiment) -> tuple[str, str]:
    """The kind of towers with the better mean on validation, and the comparison in words."""
    if len(runs) == 1:
        return next(iter(runs)), ""
    try:
        lead, clusters = lead_on_validation(runs[WARM], runs[SCRATCH])
    except DataError:
        first, second = (_candidate(kind, runs[kind], experiment) for kind in (WARM, SCRATCH))
        warm, scratch, metric = first["validation"], second["validation"], first["metric"]
        means = f"{metric} on validation: warm {warm:.4f}, scratch {scratch:.4f}"
        return (WARM if warm >= scratch else SCRATCH), f"{means}; by other queries, so the means alone decide"
    return (WARM if lead.mean >= 0 else SCRATCH), f"warm less scratch on validation: {lead.text(clusters)}"


def _candidate(kind: str, run: Run, experiment: Experiment) -> dict[str, Any]:
    """The figures of towers, as `retrain` returns them."""
    selection, run_id = experiment.training.selection, run.info.run_id
    history = mlflow.MlflowClient().get_metric_history(run_id, f"validation/{selection}")
    start = next((each.value for each in history if each.step == 0), None)
    found = metrics_of(run).get(f"validation_{selection}")
    metric = metric_label(selection)
    return {"kind": kind, "run_id": run_id, "metric": metric, "start": start, "validation": found}
