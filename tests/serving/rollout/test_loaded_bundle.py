"""Who answers: the champion, or for a share of the keys the canary, and for one key always the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.tiny import tiny_bundle
from twinspire.protos.errors import BundleDamaged
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedBundle, LoadedBundle]:
    """Two bundles at work, of 300 and of 200 items."""
    parent = tmp_path_factory.mktemp("two")
    first, second = (
        LoadedBundle.load(tiny_bundle(parent, items), model_version=str(items)) for items in (300, 200)
    )
    return first, second


def test_without_a_canary_the_champion_answers(two: tuple[LoadedBundle, LoadedBundle]) -> None:
    lineup = TrafficSplit(two[0])
    assert {id(lineup.choose(f"user {n}".encode())) for n in range(1000)} == {id(two[0])}
    assert lineup.all == two[:1]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_the_canary_gets_its_share_of_the_keys_and_always_the_same(
    two: tuple[LoadedBundle, LoadedBundle], share: float
) -> None:
    lineup = TrafficSplit(*two, share)
    keys = [f"user {n}".encode() for n in range(20_000)]
    chosen = [lineup.choose(key) is two[1] for key in keys]
    assert sum(chosen) / len(keys) == pytest.approx(share, abs=0.01)
    assert [lineup.choose(key) is two[1] for key in keys] == chosen
    again = TrafficSplit(two[0], replace(two[1], model_version="9"), share)
    assert [again.choose(key) is again.canary for key in keys] == chosen


def test_another_canary_gets_other_keys(two: tuple[LoadedBundle, LoadedBundle], tmp_path: Path) -> None:
    other = LoadedBundle.load(tiny_bundle(tmp_path, 100))
    keys = [f"user {n}".encode() for n in range(2000)]
    lineups = TrafficSplit(*two, 0.5), TrafficSplit(two[0], other, 0.5)
    first, second = ([each.choose(key) is each.canary for key in keys] for each in lineups)
    both = sum(a and b for a, b in zip(first, second, strict=True)) / len(keys)
    assert both < 0.45


def test_a_damaged_bundle_is_not_loaded(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path)
    with (folder / "links.npy").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(BundleDamaged, match=r"links\.npy: 1000 bytes, expected"):
        LoadedBundle.load(folder)
