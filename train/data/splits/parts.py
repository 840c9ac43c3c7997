"""The parts of a split: their names, their sizes, and whether these are what was asked for."""

from collections.abc import Iterable

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.train.config.data import SplitConfig
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import POSITIVE

PARTS = ("train", "validation", "test")
COLD = "cold"
SHOWN = "shown"
PART = pl.Enum(sorted((*PARTS, COLD, SHOWN)))
"""The type of the column `part`."""
TOLERANCE = 0.5  # by which the share of a part may differ from that of the configuration, of the latter


def part_sizes(divided: Iterable[pl.DataFrame]) -> dict[str, tuple[int, int]]:
    """Part -> number of its pairs, and of its positive pairs; of partitions with `part` and maybe `label`."""
    sizes: dict[str, tuple[int, int]] = {}
    for each in divided:
        positive = POSITIVE.sum() if "label" in each.columns else pl.len()
        for part, *counts in each.group_by("part").agg(pl.len(), positive.alias("positive")).iter_rows():
            pairs, positives = sizes.get(part, (0, 0))
            sizes[part] = (pairs + counts[0], positives + counts[1])
    return sizes


def check_parts(divided: Partitions, config: SplitConfig) -> None:
    """Refuse a split with an empty part, or with one that holds no positive pair."""
    sizes = part_sizes(divided.select("part", "^label$"))
    for part in (*PARTS, COLD) if config.cold_items else PARTS:
        if part not in sizes:
            groups = sum(each["group"].n_unique() for each in divided.select("group"))
            raise DataError(
                f"the {part} part of the split is empty: {divided.height} pairs in "
                f"{groups} groups are too few for a split by {config.by}"
                f"{_cure(part, config.by)}"
            )
        if not sizes[part][1]:
            raise DataError(f"the {part} part of the split holds no positive pair")


def _cure(part: str, by: str) -> str:
    """What to change where a part is empty."""
    if part == COLD or by not in ("group", "time"):
        return ""
    finer = "name a finer data.group" if by == "group" else "use finer times: equal ones are in one part"
    which = "smaller split.test and split.validation" if part == "train" else f"a larger split.{part}"
    return f"; set {which}, or {finer}"


def unusual_shares(divided: Partitions, config: SplitConfig) -> list[str]:
    """A sentence for each part whose share of the pairs is not 0.5 to 1.5 times that of the configuration.

    Args:
        divided: as `assign_parts` returns them.
    """
    sizes = {part: size for part, (size, _) in part_sizes(divided.select("part", "^label$")).items()}
    if config.by not in ("group", "time") or SHOWN in sizes:
        return []
    warm = sum(size for part, size in sizes.items() if part != COLD)
    why = "groups are few or large" if config.by == "group" else "many pairs have the same time"
    found = []
    for part, asked in (("test", config.test), ("validation", config.validation)):
        share = sizes.get(part, 0) / warm
        if not (1 - TOLERANCE) * asked <= share <= (1 + TOLERANCE) * asked:
            found.append(f"{part} holds {share:.0%} of the pairs, split.{part} asks for {asked:.0%}: {why}")
    return found
