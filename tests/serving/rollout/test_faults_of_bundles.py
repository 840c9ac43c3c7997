"""A bundle that is no good, or has come to harm: the champion answers, and it can be seen.

Each fault is injected while the service is asked all the time. Then no request may fail, all answers must be
the champion's, and `Info`, metrics and log must tell of it. When the fault goes, the service must come to
serve what the alias names, without a restart.
"""

from typing import Any

import pytest

from tests.helpers.serving.world import Heal, World, check, put_back, truncate
from twinspire.protos.bundle import MANIFEST, VECTORS

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]

# One file in the registry is damaged: of the other good version, which is the one to come.


@pytest.mark.parametrize("name", [VECTORS, MANIFEST])
def test_a_truncated_file(world: World, name: str) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        path = world.versions.files(coming) / name
        whole = path.read_bytes()
        truncate(path)
        world.versions.point(coming)
        return lambda: put_back(path, whole)

    expected = f"{name}: " if name != MANIFEST else "manifest.json: not a bundle's manifest"
    check(world, f"{name} truncated", inject, expected)


# Faults of bundles: a version that is whole, and no good.


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dimension": 7}, "dimension"),
        ({"schema_version": 99}, "schema version 99"),
        ({"examples": ({"age": "x"},)}, "examples"),
    ],
    ids=["another dimension", "a newer schema", "examples that cannot be answered"],
)
def test_a_bundle_that_is_no_good(world: World, fields: dict[str, Any], expected: str) -> None:
    def inject(world: World) -> Heal:
        world.versions.point(world.bad(**fields))
        coming = world.other
        return lambda: world.versions.point(coming)

    check(world, f"a bundle with {fields}", inject, expected)


def test_a_version_without_a_bundle(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        (world.made / "nothing").mkdir(exist_ok=True)
        (world.made / "nothing" / "readme.txt").write_text("nothing")
        world.versions.point(world.versions.add(world.made / "nothing", tag="0" * 64))
        return lambda: world.versions.point(coming)

    check(world, "a version without a bundle", inject, "holds 0 bundles")
