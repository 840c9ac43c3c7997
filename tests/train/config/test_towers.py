"""The `[tower]` section of the TOML."""

from typing import Any

import pytest

from protos.toml_config import parse
from train.config import TowerConfig
from train.config.towers import SequenceTower, SharedTower


def test_every_key_but_the_kind_has_a_default() -> None:
    assert parse({"kind": "sequence"}, TowerConfig, "tower") == SequenceTower("sequence")
    assert parse({"kind": "shared"}, TowerConfig, "tower") == SharedTower("shared")
    assert SequenceTower("sequence").history == "attention"
    assert SequenceTower("sequence", history="sum", dimension=63).heads == 2  # a sum has no heads
    assert SharedTower("shared", hidden=()).hidden == ()  # a single layer


SEQUENCE: dict[str, Any] = {"kind": "sequence"}
SHARED: dict[str, Any] = {"kind": "shared"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({**SEQUENCE, "dimension": 0}, "tower.dimension: expected at least 1, got 0"),
    ({**SEQUENCE, "layers": 0}, "tower.layers: expected at least 1, got 0"),
    ({**SEQUENCE, "heads": 3}, "tower.heads: expected a divisor of dimension = 64, got 3"),
    ({**SEQUENCE, "latent": -1}, "tower.latent: expected at least 0, got -1"),
    ({**SEQUENCE, "decay": -0.1}, "tower.decay: expected at least 0, got -0.1"),
    ({**SEQUENCE, "history": "latent"}, r'tower.latent: expected at least 1 with history = "latent", got 0'),
    ({**SEQUENCE, "history": "last"}, "tower.history: expected one of 'attention', 'mean', 'sum', 'latent'"),
    ({**SEQUENCE, "similarity": "euclidean"}, "tower.similarity: expected one of"),
    ({**SEQUENCE, "regularisation": 0}, "tower.regularisation: expected a number above 0"),
    ({**SEQUENCE, "latent_scale": 0}, "tower.latent_scale: expected a number above 0"),
    ({**SEQUENCE, "orders": [0]}, r"tower.orders: expected lengths of 1 to 16, got \[0\]"),
    ({**SEQUENCE, "buckets": 1}, "tower.buckets: expected at least 2, got 1"),
    ({**SEQUENCE, "hidden": [8]}, "tower.hidden: unknown key"),
    ({**SHARED, "dimension": 0}, "tower.dimension: expected at least 1, got 0"),
    ({**SHARED, "hidden": [8, 0]}, r"tower.hidden: expected numbers of at least 1, got \[8, 0\]"),
    ({**SHARED, "orders": [], "words": False}, "tower.orders: expected lengths of 1 to 16, got"),
]
IDLE: list[tuple[dict[str, Any], str]] = [
    ({"history": "sum", "layers": 1}, 'layers: goes with history = "attention"'),
    ({"history": "mean", "input_dropout": 0.1}, 'input_dropout: goes with history = "attention"'),
    ({"regularisation": 10}, "regularisation: goes with latent above 0"),
    ({"decay": 0.1}, "decay: goes with a sum over the history"),
    ({"id_dropout_alpha": 1}, "id_dropout_alpha: goes with id_dropout above 0"),
    ({"newcomers": "learned", "newcomers_alpha": 2}, 'newcomers_alpha: goes with newcomers = "fitted"'),
]
WRONG += [({**SEQUENCE, **changed}, f"tower.{expected}; leave it out") for changed, expected in IDLE]
WRONG += [
    ({**SEQUENCE, name: 1.0}, f"tower.{name}: expected 0 to below 1, got 1.0")
    for name in ("dropout", "input_dropout", "query_dropout", "history_dropout")
]
WRONG += [
    (
        {**SEQUENCE, "newcomers": "learned", "id_dropout": 1.0},
        "tower.id_dropout: expected 0 to below 1, got 1.0",
    ),
    ({**SEQUENCE, "id_dropout": 0.5}, 'tower.newcomers: "fitted" places new items without id_dropout'),
    ({**SEQUENCE, "newcomers_alpha": -1}, "tower.newcomers_alpha: expected at least 0, got -1"),
    ({**SEQUENCE, "newcomers_strength": 0}, "tower.newcomers_strength: expected a number above 0"),
]


@pytest.mark.parametrize(("section", "said"), WRONG, ids=[said for _, said in WRONG])
def test_errors_name_the_key(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(section, TowerConfig, "tower")
