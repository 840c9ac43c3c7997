"""The `[tower]` section of the TOML."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twinspire.protos.features import SIDES, HistoryFeature, IdFeature, TextFeature
from twinspire.protos.toml_config import FROM_DATA, parse, to_table
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.config.pretrained_tower import TransformerTower
from twinspire.train.config.towers import BagTower, TowerConfig


def test_every_key_but_the_kind_has_a_default() -> None:
    assert parse({"kind": "sequence"}, TowerConfig, "tower") == SequenceTower("sequence")
    assert SequenceTower("sequence").history == "attention"
    assert SequenceTower("sequence", history="sum", dimension=63).heads == 2  # a sum has no heads


SEQUENCE: dict[str, Any] = {"kind": "sequence"}
PRETRAINED: dict[str, Any] = {"kind": "transformer", "model": "mini"}
COMIREC: dict[str, Any] = {"kind": "comirec"}
CLICKS: dict[str, Any] = {"kind": "clicks"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({**SEQUENCE, "dimension": 0}, "tower.dimension: expected at least 1, got 0"),
    ({**SEQUENCE, "heads": 3}, "tower.heads: expected a divisor of dimension = 64, got 3"),
    ({**SEQUENCE, "history": "last"}, "tower.history: expected one of 'attention', 'sum'"),
    ({**SEQUENCE, "regularisation": 0}, "tower.regularisation: expected a number above 0"),
    ({**SEQUENCE, "buckets": 1}, "tower.buckets: expected at least 2, got 1"),
    ({"kind": "history", "hidden": [8]}, "tower.hidden: unknown key"),
    ({**CLICKS, "orders": [], "words": False}, "tower.orders: expected lengths of 1 to 16, got"),
    ({**COMIREC, "interests": 65}, "tower.interests: expected at most 64, got 65"),
]
WRONG += [
    ({**PRETRAINED, "align_epochs": 2}, 'tower.align_epochs: goes with query or item = "hashed"; leave it'),
    (
        {**PRETRAINED, "buckets": 1024},
        'tower.buckets: goes with query or item = "hashed", or words_beside; leave it out',
    ),
    (
        {**PRETRAINED, "query_hidden": 0, "item_hidden": 0},
        "tower.query_hidden: expected at least 1 on one side: nothing else would learn",
    ),
]
WRONG += [
    (
        {**PRETRAINED, "query": "hashed", "item": "hashed", "words_beside": True},
        'tower.words_beside: goes with query or item = "pretrained"; leave it out',
    ),
]
IDLE: list[tuple[dict[str, Any], str]] = [
    ({"history": "sum", "layers": 1}, 'layers: goes with history = "attention"'),
    ({"age_dropout": 0.2}, "age_dropout: goes with ages = true"),
    ({"decay": 0.1}, 'decay: goes with history = "sum" or latent above 0'),
]
WRONG += [
    ({"kind": kind, **changed}, f"tower.{expected}; leave it out, or set that, too")
    for kind in ("sequence", "history")
    for changed, expected in IDLE
]
WRONG += [
    ({**SEQUENCE, name: 1.0}, f"tower.{name}: expected 0 to below 1, got 1.0")
    for name in ("dropout", "input_dropout", "query_dropout", "history_dropout")
]


@pytest.mark.parametrize(("section", "said"), WRONG, ids=[said for _, said in WRONG])
def test_errors_name_the_key(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(section, TowerConfig, "tower")


TEXT = TextFeature("text", "text", 12)


def test_a_pretrained_side_reads_tokens_and_a_hashed_side_characters() -> None:
    tower = parse({**PRETRAINED, "query": "hashed"}, TowerConfig, "tower")
    assert tower.sides == ("item",)
    assert tower.with_inputs("item", {"text": TEXT})["text"].input == "both"  # words beside the encoder
    assert tower.with_inputs("query", {"text": TEXT}) == {"text": TEXT}
    assert tower.characters is FROM_DATA
    with pytest.raises(ValueError, match=r'query\.text\.input: expected "code_points" on a hashed side'):
        tower.with_inputs("query", {"text": TextFeature("text", "text", 12, input="tokens")})


def test_words_beside_the_encoder_are_read_by_pretrained_sides() -> None:
    both = parse({**PRETRAINED, "words_beside": True}, TowerConfig, "tower")
    assert both.is_hashed
    assert both.buckets is FROM_DATA
    assert [both.with_inputs(side, {"text": TEXT})["text"].input for side in SIDES] == ["both", "both"]
    for changed, expected in (({}, "both"), ({"words_beside": False}, "tokens")):
        item = parse({**PRETRAINED, "query": "hashed", **changed}, TowerConfig, "tower")
        inputs = [item.with_inputs(side, {"text": TEXT})["text"].input for side in SIDES]
        assert inputs == ["code_points", expected]
        stored = replace(item, characters=(1, 2), buckets=4096)  # a run stores what was chosen from the data
        assert parse(to_table(stored), TowerConfig, "tower") == stored
        assert (item.query_hidden, item.orders) == (0, (3,))  # at the latency of `bag`


def test_the_model_is_beside_the_toml() -> None:
    tower = TransformerTower("transformer", "models/mini")
    assert tower.in_folder(Path("/data")).features_folder == Path("/data/models/mini")


def test_a_pretrained_tower_needs_texts_and_reads_no_history() -> None:
    tower = TransformerTower("transformer", "mini")
    with pytest.raises(ValueError, match='needs a feature of kind "text", item has none'):
        tower.check_features({"text": TEXT}, {"id": IdFeature("id")})
    with pytest.raises(ValueError, match='"transformer" reads no history; "sequence" does'):
        tower.check_features({"text": TEXT, "history": HistoryFeature("history")}, {"text": TEXT})


def test_other_kinds_read_no_tokens() -> None:
    tokens = TextFeature("text", "text", 12, input="tokens")
    for tower in (BagTower("bag"), SequenceTower("sequence")):
        with pytest.raises(ValueError, match=r'item\.text\.input: "tokens" goes with \[tower\] kind'):
            tower.check_features({"text": TEXT}, {"text": tokens})
