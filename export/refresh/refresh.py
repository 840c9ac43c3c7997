"""All steps of a refresh, in order.

    champion, items, changes -> merge -> encode -> build -> register -> gates -> champion -> compact

Each step finds what an earlier process has done, so a refresh that was killed goes on with the same command:
the state of the store and the encoded vectors are in `work.py`'s folder, the bundle is found by its key, the
version by its bundle, and the alias says whether it was promoted. One refresh of a model runs at a time on a
host; of two hosts one is refused when it promotes, because the champion has moved meanwhile.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from rich.console import Console

from twinspire.export.bundles import BUNDLES
from twinspire.export.encoding.encoding import ItemTower, encode_into
from twinspire.export.encoding.records import ColumnRecords
from twinspire.export.logged_model import log_bundle
from twinspire.export.refresh import sources
from twinspire.export.refresh.build import RefreshBuild, find_built
from twinspire.export.refresh.merge import FRESH, Champion, Merged, merge
from twinspire.export.refresh.quality import evaluation
from twinspire.export.refresh.work import WORK, RefreshFolder
from twinspire.export.release import audit_log, registry
from twinspire.export.release.model_card import REFRESHED_FROM
from twinspire.export.release.promote import Compare, compare_versions, promote
from twinspire.export.release.registry import CHALLENGER, CHAMPION, AliasState, by_version
from twinspire.export.terminal import show_record
from twinspire.protos import bundle
from twinspire.protos.bundle import Snapshot
from twinspire.protos.errors import GateRefused, MissingStage, TwinspireError, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.train.config import Experiment
from twinspire.train.data.dataset import Dataset, prepare
from twinspire.train.data.source import source_config
from twinspire.train.fingerprint import code_fingerprint, fingerprint
from twinspire.train.progress import PROGRESS
from twinspire.train.training.run_metrics import select_compared
from twinspire.train.training.tracking import find_run, mlflow_errors, tracked_run

STAGE = "refresh"  # of its runs
SHOWN = 20  # items that could not be encoded, in the result


def command(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """The command `refresh`; resumes after a kill."""
    data = partial(prepare, experiment, arguments.config.parent, console=PROGRESS)
    return refresh(experiment, data, arguments.catalogue, arguments.items)


def refresh(
    experiment: Experiment,
    data: Callable[[], Dataset],
    catalogue: str = "",
    items: Path | None = None,
    compare: Compare = compare_versions,
) -> dict[str, Any]:
    """Make a new bundle of the champion and the catalogue as it stands, and promote it if all gates hold.

    Args:
        experiment: whose champion is refreshed.
        data: reads the data set, for quality.
        catalogue: URL of the store of live items; empty for that of the service, if there is one.
        items: a table that takes the place of the champion's items.
        compare: measures both bundles and decides.

    Returns:
        A document with `model`, the champion now, and `refreshed_from`, the version that was refreshed;
        whether it was `refreshed`, the new `bundle` and its `bundle_version`, None if nothing has changed;
        `catalogue`, the state of the store; numbers of items (`Merged.counts`) and the first `failed_items`,
        with reasons; `resumed_at`, the number of vectors that an earlier process had encoded; `move` and
        `decision` of the promotion; and what was `compacted` in the store, and in what was derived from it.

    Raises:
        MissingStage: there is no champion, or nothing to refresh from.
        DataError: the table of items is invalid, or no item is left.
        GateRefused: gates do not hold; the bundle stays registered, and the champion is the one before.
        Unavailable: another refresh is at work, the aliases were moved meanwhile, or MLflow or the store does
            not answer.
    """
    name = experiment.name
    busy = Unavailable(f"{name}: another refresh is at work on this host")
    with exclusive_lock(WORK / f"{name}.lock", busy=busy), mlflow_errors():
        return _Refresh(experiment, data, catalogue, items, compare).run()


def show_refreshed(result: dict[str, Any], console: Console) -> None:
    """Print what has changed, the gates and the champion."""
    for item_id, why in result["failed_items"].items():
        text = f"left out: {item_id!r}: {why}"
        console.print(text, style="yellow", soft_wrap=True)
    if not result["refreshed"]:
        console.print(f"{result['model']} has the catalogue as it stands: nothing to refresh")
        return
    at = f", of sequence {result['catalogue']['sequence']:,}" if result["catalogue"] else ""
    console.print(
        f"{result['items']:,} items{at}: {result['encoded']:,} encoded, {result['kept']:,} kept; "
        f"{result['new']:,} new, {result['updated']:,} with other fields, {result['deleted']:,} deleted",
    )
    console.print(f"bundle {result['bundle_version'][:12]}: {result['bundle']}", soft_wrap=True)
    show_record(result, console)


@dataclass
class _Refresh:
    """One refresh, by the process that holds its lock; arguments are those of `refresh`."""

    experiment: Experiment
    data: Callable[[], Dataset]
    catalogue: str
    items: Path | None
    compare: Compare

    def __post_init__(self) -> None:
        self.name = self.experiment.name
        self.work = RefreshFolder(self.name)

    def run(self) -> dict[str, Any]:
        version = AliasState.of(self.name).champion
        if not version:
            raise MissingStage(f"{self.name}: no version is {CHAMPION}; `make register promote` makes one")
        with PROGRESS.status("fetching the champion"):
            champion = Champion.read(*registry.fetch(self.name, version))
        source = champion.manifest.bundle_version
        if self.work.state.bundle_version == source:  # promoted by a process that was killed then
            self._end()
        snapshot, merged_without = self._catalogue(champion)
        with PROGRESS.status("comparing the items"):
            merged = merged_without({})
        if merged.is_unchanged and snapshot == _known(champion, snapshot):
            return self._result(version, snapshot, merged)
        folder, merged, resumed_at = self._built(champion, snapshot, merged, merged_without)
        promotion = self._promoted(folder, merged)
        return self._result(version, snapshot, merged, folder, resumed_at, promotion)

    def _result(
        self,
        version: str,
        snapshot: Snapshot | None,
        merged: Merged,
        folder: Path | None = None,
        resumed_at: int = 0,
        promotion: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """End the refresh, compact the store, and say what came of it."""
        self._end()
        return {
            "model": promotion["model"] if promotion else f"models:/{self.name}/{version}",
            "alias": CHAMPION,
            "refreshed": folder is not None,
            "refreshed_from": f"models:/{self.name}/{version}",
            "bundle": folder and str(folder),
            "bundle_version": folder and bundle.read_manifest(folder).bundle_version,
            "catalogue": snapshot and asdict(snapshot),
            **merged.counts(),
            "failed_items": dict([*merged.failed.items()][:SHOWN]),
            "resumed_at": resumed_at,
            "move": promotion and promotion["move"],
            "decision": promotion and promotion["decision"],
            "compacted": self._compact(snapshot),
        }

    def _catalogue(self, champion: Champion) -> tuple[Snapshot | None, Callable[[Mapping[str, str]], Merged]]:
        """The catalogue as it stands, or stood when a refresh began that was killed.

        Returns:
            The state of the store, and a function that merges all without some items: id -> why.
        """
        items, work, known = self.items, self.work, champion.manifest.catalogue
        layout = source_config(self.experiment.data).item_table()
        begun_with = {
            "champion": champion.manifest.bundle_version,
            "items": sources.table_identity(items) if items is not None else "",
            "table": fingerprint(layout) if items is not None else "",
            "catalogue": self.catalogue,
            "code": code_fingerprint(__name__),
        }
        if not work.begin(begun_with):
            # With a table all changes are read: it does not hold those before the champion's snapshot.
            after = known if items is None else None
            with PROGRESS.status("reading the store of live items"):
                has_store = sources.take_snapshot(self.catalogue, work.changes, after)
            if not has_store and items is None:
                raise MissingStage(
                    "there is nothing to refresh from: no store of live items is where the service keeps it, "
                    "and no table of items is named; name one of them: make refresh "
                    'CATALOGUE="sqlite:///items.db" or ITEMS="items.csv"'
                )
            work.note(begun_with=begun_with)
        snapshot, changes = sources.read_snapshot(work.changes) if work.changes.exists() else (None, [])
        if known and snapshot and known.store == snapshot.store and snapshot.sequence < known.sequence:
            work.end()
            raise Unavailable(
                f"{self.name}: the store of live items ends at sequence {snapshot.sequence}, and the "
                f"champion was built from sequence {known.sequence}; it may be an older copy of the store"
            )
        table = None
        if items is not None:
            with PROGRESS.status(f"reading {items}"):
                table = sources.read_items(items, layout, champion.manifest)
        return snapshot, partial(merge, champion, table, changes)

    def _built(
        self,
        champion: Champion,
        snapshot: Snapshot | None,
        merged: Merged,
        merged_without: Callable[[Mapping[str, str]], Merged],
    ) -> tuple[Path, Merged, int]:
        """The new bundle, what is in it, and the number of vectors that were encoded before."""
        fresh, resumed_at = np.empty((0, champion.manifest.dimension), np.float32), 0
        if merged.fresh_count:
            records = ColumnRecords(merged.fresh, "new and changed items")
            tower = ItemTower.of(champion.folder, champion.manifest)
            encoded = encode_into(self.work.vectors, tower, records)
            fresh, resumed_at = np.asarray(encoded.vectors), encoded.resumed_at
            is_finite = np.isfinite(fresh).all(axis=1)
            if not is_finite.all():
                places = np.flatnonzero(merged.origin == FRESH)[~is_finite]
                refused = {merged.items.ids[n]: "its vector is not finite" for n in places.tolist()}
                fresh, merged = fresh[is_finite], merged_without(refused)
        key = fingerprint(self.work.state.begun_with, snapshot, self.experiment.index)
        folder = find_built(key, BUNDLES)
        if folder is None:
            split = evaluation(self.experiment, champion, merged, self.data)
            made = RefreshBuild(self.experiment, champion, merged, fresh, snapshot, key, split)
            folder = made.write()
        self.work.note(bundle_version=bundle.read_manifest(folder).bundle_version)
        return folder, merged, resumed_at

    def _promoted(self, folder: Path, merged: Merged) -> dict[str, Any]:
        """The new bundle in the registry, and promoted."""
        run_id = self._log(folder, merged)
        self._note_waiting()
        found, _ = registry.register(folder, run_id)
        version = str(found.version)
        self.work.note(version=version)
        try:
            return promote(self.experiment, self.data, compare=self.compare, expected=version)
        except GateRefused:
            self._end()
            raise

    def _note_waiting(self) -> None:
        """Note the challenger that the new version takes the alias from, unless a refresh has made it."""
        now = AliasState.of(self.name)
        if self.work.state.waiting or now.challenger in (None, now.champion):
            return
        challenger = by_version(self.name, str(now.challenger))
        if REFRESHED_FROM not in challenger.tags:
            self.work.note(waiting=str(challenger.version))

    def _log(self, folder: Path, merged: Merged) -> str:
        """Log the bundle's figures and reports to a run of its own; returns the run's id."""
        manifest = bundle.read_manifest(folder)
        refreshed = manifest.refreshed_from
        assert refreshed is not None
        known = find_run(self.name, STAGE, refreshed.key)
        if known is not None:
            return str(known.info.run_id)
        begun = find_run(self.name, STAGE, refreshed.key, "RUNNING")  # by a process that was killed
        resume = None if begun is None else str(begun.info.run_id)
        with tracked_run(self.name, STAGE, refreshed.key, resume) as run_id:
            client = mlflow.MlflowClient()
            for key, value in (
                ("mlflow.runName", f"{self.name}-refresh-of-{refreshed.bundle_version[:12]}"),
                ("twinspire.refreshed_from", refreshed.bundle_version),
                ("twinspire.trained_by", manifest.run_id),
            ):
                client.set_tag(run_id, key, value)
            counts = {name: float(count) for name, count in merged.counts().items()}
            if manifest.catalogue is not None:
                counts["sequence"] = float(manifest.catalogue.sequence)
            mlflow.log_metrics(select_compared("refresh", counts), run_id=run_id)
            log_bundle(folder, run_id)
        return run_id

    def _end(self) -> None:
        """End the refresh: a displaced challenger gets its alias back, and the work folder is removed."""
        state = self.work.state
        if state.waiting and AliasState.of(self.name).challenger in (None, state.version):
            mlflow.MlflowClient().set_registered_model_alias(self.name, CHALLENGER, state.waiting)
        self.work.end()

    def _compact(self, snapshot: Snapshot | None) -> dict[str, Any]:
        """Compact the store; what champion, challenger and targets of a rollback need is kept."""
        if snapshot is None:
            return {}
        aliases = AliasState.of(self.name)
        targets = audit_log.versions_to_keep(audit_log.read(self.name), aliases.champion)
        versions = {aliases.champion, aliases.challenger or "", *targets} - {""}
        keep = []
        for version in versions:
            try:
                keep.append(str(by_version(self.name, version).tags.get(BUNDLE_VERSION, "")))
            except MissingStage:  # it was deleted from the registry
                continue
        try:
            return sources.compact(self.catalogue, sorted(filter(None, keep)))
        except TwinspireError as error:  # the bundle is released; the next refresh tries again
            PROGRESS.print(f"the store is not compacted: {error}")
            return {"error": str(error)}


def _known(champion: Champion, snapshot: Snapshot | None) -> Snapshot | None:
    """The champion's snapshot; without one, it has nothing of the store."""
    if champion.manifest.catalogue is None and snapshot is not None:
        return Snapshot(snapshot.store, 0)
    return champion.manifest.catalogue
