"""The `[loss]` section of the TOML."""

from collections.abc import Callable
from typing import Any

import pytest

from twinspire.protos.toml_config import parse
from twinspire.train.config.losses import Bce, FullSoftmax, InBatchSoftmax, LossConfig, SampledSoftmax

KINDS = {
    "full_softmax": FullSoftmax,
    "in_batch_softmax": InBatchSoftmax,
    "sampled_softmax": SampledSoftmax,
    "bce": Bce,
}


@pytest.mark.parametrize(("kind", "schema"), KINDS.items(), ids=KINDS)
def test_every_key_but_the_kind_has_a_default(kind: str, schema: Callable[[str], object]) -> None:
    found = parse({"kind": kind}, LossConfig, "loss")
    assert found == schema(kind)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": "full"}, "loss.kind: expected one of 'full_softmax', 'in_batch_softmax'"),
    ({"kind": "in_batch_softmax", "mine_from": 50}, "loss.mine_from: goes with hard_negatives above 0"),
    ({"kind": "bce", "negatives": 4}, "loss.negatives: unknown key; known here: kind"),
    (
        {"kind": "in_batch_softmax", "correction": "logq", "hard_negatives": 1},
        'loss.correction: expected "none" with hard_negatives',
    ),
]


@pytest.mark.parametrize(("section", "said"), WRONG, ids=[said for _, said in WRONG])
def test_errors_name_the_key(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(section, LossConfig, "loss")
