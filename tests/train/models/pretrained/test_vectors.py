import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.pretrained import TEXTS, WIDTH, needs_tokenizers, needs_transformers
from twinspire.protos.features import TextFeature
from twinspire.train.models.pretrained import encoder
from twinspire.train.models.pretrained.encoder import EncodedTexts, PretrainedTextEncoder, load_encoder
from twinspire.train.models.pretrained.folder import PretrainedFolder

pytestmark = [needs_tokenizers(), needs_transformers()]
SPEC = TextFeature("text", "text", 24, input="tokens")


def encoded_now(folder: PretrainedFolder, text: str) -> np.ndarray:
    ids = SPEC.converters("text", {}, folder.path)["text"]([text], "text")
    with torch.inference_mode():
        return np.asarray(load_encoder(folder)(torch.from_numpy(ids))[0])


def test_vectors_are_those_of_the_encoder(
    tiny: PretrainedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "BATCH_TOKENS", 40)  # several batches
    texts = [*TEXTS, "", TEXTS[0]]
    found = EncodedTexts(tiny, tmp_path).vectors(texts, SPEC)
    assert found.dtype == np.float32
    assert found.shape == (len(texts), WIDTH)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, encoded_now(tiny, text), atol=1e-6)
    assert not found[-2].any()


def test_a_text_is_encoded_once(
    tiny: PretrainedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EncodedTexts(tiny, tmp_path).vectors(TEXTS, SPEC)
    monkeypatch.setattr(encoder, "load_encoder", lambda folder: pytest.fail("encoded again"))
    again = EncodedTexts(tiny, tmp_path)
    np.testing.assert_array_equal(again.vectors(TEXTS[::-1], SPEC), first[::-1])
    cut = dataclasses.replace(SPEC, max_length=20)  # the same tokens of a text that is not cut
    np.testing.assert_array_equal(again.vectors(TEXTS[:1], cut), first[:1])
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        again.vectors(["a text that is new"], SPEC)


def test_what_an_interruption_has_left_is_kept(
    tiny: PretrainedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = EncodedTexts(tiny, tmp_path / "whole").vectors(TEXTS, SPEC)
    encoded = EncodedTexts(tiny, tmp_path)
    encoded.vectors(TEXTS[:3], SPEC)
    record = encoded.path.stat().st_size // 3
    with encoded.path.open("r+b") as file:
        file.truncate(2 * record + 7)
    loaded: list[PretrainedFolder] = []

    def load(folder: PretrainedFolder) -> PretrainedTextEncoder:
        loaded.append(folder)
        return load_encoder(folder)

    monkeypatch.setattr(encoder, "load_encoder", load)
    np.testing.assert_allclose(EncodedTexts(tiny, tmp_path).vectors(TEXTS, SPEC), expected, atol=1e-6)
    assert encoded.path.stat().st_size == len(TEXTS) * record
    assert len(loaded) == 1


def test_bfloat16_gives_nearly_the_same_vectors_in_a_file_of_their_own(
    tiny: PretrainedFolder, tmp_path: Path
) -> None:
    plain, rounded = EncodedTexts(tiny, tmp_path), EncodedTexts(tiny, tmp_path, precision="bfloat16")
    exact, found = plain.vectors(TEXTS, SPEC), rounded.vectors(TEXTS, SPEC)
    assert found.dtype == np.float32
    assert 0.999 < (exact * found).sum(axis=1).min() < 1
    assert np.abs(exact - found).max() > 1e-5
    assert plain.path != rounded.path
    np.testing.assert_array_equal(plain.vectors(TEXTS, SPEC), exact)


def test_code_points_are_read_as_far_as_the_model_reads(tiny: PretrainedFolder, tmp_path: Path) -> None:
    hashed = TextFeature("text", "text", 3)  # three characters, of a hashed side
    found = EncodedTexts(tiny, tmp_path).vectors(TEXTS[:1], hashed)
    np.testing.assert_allclose(found[0], encoded_now(tiny, TEXTS[0]), atol=1e-6)
