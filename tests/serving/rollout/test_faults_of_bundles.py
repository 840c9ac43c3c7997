"""A bundle that is no good, or has come to harm: the champion answers, and it can be seen.

Each fault is injected while the service is asked all the time. Then no request may fail, all answers must be
the champion's, and `Info`, metrics and log must tell of it. When the fault goes, the service must come to
serve what the alias names, without a restart.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.serving.world import Heal, World, check, put_back, truncate
from tests.helpers.tiny import build_links
from tests.helpers.tiny_towers import DIMENSION
from twinspire.protos.bundle import ITEM_TOWER, ITEMS, LINKS, MANIFEST, QUERY_TOWER, VECTORS

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]

FILES = (QUERY_TOWER, ITEM_TOWER, VECTORS, LINKS, ITEMS, MANIFEST)


# One file in the registry is damaged: of the other good version, which is the one to come.


def damaged(name: str, damage: Callable[[Path], None]) -> Callable[[World], Heal]:
    def inject(world: World) -> Heal:
        coming = world.other
        path = world.versions.files(coming) / name
        whole = path.read_bytes()
        damage(path)
        world.versions.point(coming)
        return lambda: put_back(path, whole)

    return inject


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file(world: World, name: str) -> None:
    expected = f"{name}: " if name != MANIFEST else "manifest.json: not a bundle's manifest"
    check(world, f"{name} truncated", damaged(name, truncate), expected)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit(world: World, name: str) -> None:
    check(
        world, f"a bit of {name} flipped", damaged(name, flip), "manifest.json" if name == MANIFEST else name
    )


def test_a_missing_file(world: World) -> None:
    check(world, f"{LINKS} missing", damaged(LINKS, Path.unlink), f"{LINKS}: missing")


# Faults of bundles: a version that is whole, and no good.


def bad(change: Callable[[Path], None], **fields: Any) -> Callable[[World], Heal]:
    def inject(world: World) -> Heal:
        world.versions.point(world.bad(change, **fields))
        coming = world.other
        return lambda: world.versions.point(coming)

    return inject


def narrower(folder: Path) -> None:
    """Vectors and an index of another dimension than the towers have."""
    vectors = np.load(folder / VECTORS)[:, : DIMENSION // 2].copy()
    np.save(folder / VECTORS, vectors)
    (folder / LINKS).unlink()
    np.save(folder / LINKS, build_links(vectors))


def shapeless(folder: Path) -> None:
    """An index of the right size that is none."""
    size = (folder / LINKS).stat().st_size
    content = (folder / LINKS).read_bytes()[:128] + np.random.default_rng(0).bytes(size - 128)
    (folder / LINKS).write_bytes(content)


def no_model(folder: Path) -> None:
    (folder / QUERY_TOWER).write_bytes(b"this is no model")


def swapped_towers(folder: Path) -> None:
    """A catalogue that is another's: fewer ids than vectors."""
    (folder / ITEMS).write_text('{"ids": ["a"], "popularity": [1.0], "fields": {"name": ["a"]}}')


@pytest.mark.parametrize(
    ("name", "change", "fields", "expected"),
    [
        ("vectors and index of another dimension", narrower, {}, "vectors.npy"),
        ("a manifest of another dimension", lambda folder: None, {"dimension": 7}, "dimension"),
        ("an index that is none", shapeless, {}, "the validation"),
        ("a tower that is no model", no_model, {}, "not an ONNX model"),
        ("a catalogue of other items", swapped_towers, {}, "items.json"),
        ("a newer schema", lambda folder: None, {"schema_version": 99}, "schema version 99"),
        ("an older schema", lambda folder: None, {"schema_version": 1}, "schema version 1"),
        ("examples that cannot be answered", lambda folder: None, {"examples": ({"age": "x"},)}, "examples"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_bundle_that_is_no_good(
    world: World, name: str, change: Callable[[Path], None], fields: dict[str, Any], expected: str
) -> None:
    check(world, name, bad(change, **fields), expected)


def test_a_version_without_a_bundle(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        (world.made / "nothing").mkdir(exist_ok=True)
        (world.made / "nothing" / "readme.txt").write_text("nothing")
        world.versions.point(world.versions.add(world.made / "nothing", tag="0" * 64))
        return lambda: world.versions.point(coming)

    check(world, "a version without a bundle", inject, "holds 0 bundles")


def test_a_version_that_holds_another_bundle_than_it_says(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        world.versions.point(world.versions.add(world.bundles[coming], tag="f" * 64))
        return lambda: world.versions.point(coming)

    check(world, "a version that holds another bundle", inject, "expected ffffffffffff")
