"""A refresh that is killed (-9) at any step goes on with the same command, to the same result."""

import mlflow
import pytest

from tests.helpers import tiny
from tests.helpers.refreshing import World, gone, item, vectors_of
from tests.helpers.warm import WarmPython
from twinspire.export.bundles import BUNDLES
from twinspire.export.refresh.work import WORK
from twinspire.export.release import registry
from twinspire.export.release.commands import audit_log_of, roll_back
from twinspire.protos import bundle

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), pytest.mark.exhaustive]

# Refreshes, and stops where a function is called, before it or after it.
REFRESH = """
import importlib, sys, time
from pathlib import Path

import pytest
from tests.helpers.refreshing import World, without_processes
from twinspire.train.training.tracking import connect

folder, when, module, *names = sys.argv[1:]
owner = importlib.import_module(module)
*path, name = names
for each in path:
    owner = getattr(owner, each)
function = getattr(owner, name)

def stop(*positional, **named):
    if when == "after":
        function(*positional, **named)
    print("here", flush=True)
    time.sleep(600)

connect()
setattr(owner, name, stop)
world = World(Path(folder))
without_processes(world, pytest.MonkeyPatch())
world.refresh()
print("ended", flush=True)
"""
STEPS = {
    "with the state of the store": ("before", "twinspire.export.refresh.refresh", "merge"),
    "in the middle of encoding": (
        "before",
        "twinspire.export.encoding.resumable_file",
        "ResumableFile",
        "finish",
    ),
    "with the vectors": ("before", "twinspire.export.refresh.build", "RefreshBuild", "write"),
    "with the bundle": ("after", "twinspire.export.refresh.build", "RefreshBuild", "write"),
    "before the alias moves": ("before", "twinspire.export.release.audit_log", "commit"),
    "with the alias moved": ("after", "twinspire.export.refresh.refresh", "promote"),
}


@pytest.mark.timeout(900)
def test_a_killed_refresh_goes_on_and_leaves_nothing_behind(world: World) -> None:
    world.release()
    world.release("second")
    roll_back(world.name, "1")
    mlflow.MlflowClient().set_registered_model_alias(world.name, "challenger", "2")  # it waits
    expected = set(tiny.item_ids(60))
    for n, (step, stop) in enumerate(STEPS.items()):
        sequence = world.write(item(f"new-{n}", "bavuti xelike"), gone(f"item-{n:03}"))
        expected = (expected | {f"new-{n}"}) - {f"item-{n:03}"}
        _kill_at(world, stop)
        world.write(item("later", f"sotira{n}"))  # it is in the next refresh
        world.refresh()
        folder = BUNDLES / _version_of(world, world.alias("champion"))[:12]
        manifest = bundle.read(folder)
        assert manifest.catalogue is not None, step
        assert manifest.catalogue.sequence >= sequence, step
        assert expected <= vectors_of(folder).keys(), step
        assert f"item-{n:03}" not in vectors_of(folder), step
        assert audit_log_of(world.name)["intact"], step
        world.refresh()  # takes what came later, or finds nothing
        assert world.refresh()["bundle"] is None, step
        assert not (WORK / world.name).exists(), step
        assert [*BUNDLES.glob(".making-*"), *BUNDLES.glob(".bundle-*")] == [], step
        assert world.alias("challenger") == "2", step
    bundles = [_version_of(world, each) for each in world.versions()]
    assert len(set(bundles)) == len(bundles), "a bundle was registered twice"


def _version_of(world: World, number: str) -> str:
    return registry.by_version(world.name, number).tags["bundle_version"]


def _kill_at(world: World, stop: tuple[str, ...]) -> None:
    """Kill a refresh that has come to a step."""
    process = WarmPython("-c", REFRESH, str(world.folder), *stop)
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if line in ("here\n", "ended\n")) == "here\n"
    process.kill()
    process.communicate()
