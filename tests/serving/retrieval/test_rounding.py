"""The plugin that rounds batches differently (`tests/helpers/rounding.py`) reaches what encodes queries."""

from pathlib import Path

import onnxruntime
import pytest

from tests.helpers import rounding
from twinspire.protos import bundle
from twinspire.serving.retrieval.encoder import Encoder


def test_the_vectors_of_an_encoder_depend_on_the_size_of_the_batch(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(session, "__init__", session.__init__)  # undone after the test
    rounding._change_onnx_runtime()
    encoder = Encoder(plain, bundle.read(plain), side="query")
    alone, first = (encoder.vectors(encoder.arrays([{"text": "bavuti"}] * rows))[0] for rows in (1, 2))
    assert 0 < abs(alone - first).max() < 1e-5
