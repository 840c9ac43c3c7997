"""What is measured of a tower: every batch size on real records, some on inputs of a set length."""

from collections.abc import Mapping
from dataclasses import dataclass

from protos.features import FeatureSpec, HistoryFeature, Schema, Side, TextFeature
from train.config.bench import BenchConfig

AS_IS = "as_is"
SHORT = "short"
LONG = "long"
HISTORY = "history_"
HISTORIES = (5, 30)  # items, and the most that a tower reads
SET_LENGTH_BATCHES = (1, 32)  # for the product of everything would take half an hour
SMALL = 8  # up to this batch size no call is spared
SIDES: tuple[Side, Side] = ("query", "item")


@dataclass(frozen=True)
class Cell:
    """One tower at one thread budget, batch size and kind of input.

    Args:
        threads: 0 is all cores.
        kind: `as_is` are records of the test part as they are; `short` and `long` have texts of 20
            characters and of the most that the tower reads; `history_5` has histories of 5 items.
    """

    side: Side
    threads: int
    batch: int
    kind: str


def plan(config: BenchConfig, schema: Schema) -> list[Cell]:
    """All cells, those of a thread budget together, and in those the ones of a tower."""
    return [
        Cell(side, threads, batch, kind)
        for threads in config.threads
        for side in SIDES
        for kind in kinds(schema.side(side).features)
        for batch in config.batches
        if kind == AS_IS or batch in SET_LENGTH_BATCHES
    ]


def kinds(features: Mapping[str, FeatureSpec]) -> list[str]:
    """The kinds of input that make a difference to a tower with these features."""
    found = [AS_IS]
    if any(isinstance(spec, TextFeature) for spec in features.values()):
        found += [SHORT, LONG]
    longest = [spec.max_length for spec in features.values() if isinstance(spec, HistoryFeature)]
    if longest:
        lengths = sorted({*(n for n in HISTORIES if n < max(longest)), max(longest)})
        found += [f"{HISTORY}{n}" for n in lengths]
    return found


def main_kind(features: Mapping[str, FeatureSpec]) -> str:
    """What the main ratio is measured on: 20 characters where there is a text, else real records."""
    return SHORT if SHORT in kinds(features) else AS_IS
