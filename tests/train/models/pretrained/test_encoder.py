import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.pretrained import (
    MAX_TOKENS,
    TEXTS,
    WIDTH,
    needs_tokenizers,
    needs_transformers,
    write_model,
)
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import TextFeature
from twinspire.protos.files.tokenizer import TOKENIZER, open_tokenizer
from twinspire.train.models.pretrained.encoder import empty_encoder, load_encoder
from twinspire.train.models.pretrained.folder import MODEL_TYPES, PretrainedFolder

pytestmark = [needs_tokenizers(), needs_transformers()]
SMALL: dict[str, dict[str, Any]] = {  # keys that other architectures spell in their own way
    "distilbert": {"dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": WIDTH},
}


def ids(folder: PretrainedFolder, texts: tuple[str, ...] = (*TEXTS, "")) -> torch.Tensor:
    spec = TextFeature("text", "text", MAX_TOKENS, input="tokens")
    return torch.from_numpy(spec.converters("text", {}, folder.path)["text"](texts, "text"))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_batch_gives_the_vectors_of_its_texts_alone(kind: str, tmp_path: Path) -> None:
    folder = PretrainedFolder.read(write_model(tmp_path / kind, kind=kind, **SMALL.get(kind, {})))
    encoder = load_encoder(folder)
    batch = ids(folder)
    assert (batch == 0).any()
    wide = torch.nn.functional.pad(batch, (0, 5))
    with torch.inference_mode():
        vectors, padded = encoder(batch), encoder(wide)
        alone = torch.cat([encoder(row[row > 0][None] if row.any() else row[None, :1]) for row in batch])
    torch.testing.assert_close(vectors, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(vectors, padded, rtol=0, atol=1e-6)
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0] * len(TEXTS) + [0.0]))
    assert torch.pdist(vectors[:-1]).min() > 0.01  # texts differ


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_transformers(pooling: str, tmp_path: Path) -> None:
    """One text at a time, without padding and mask: its states, pooled and normalised."""
    import transformers

    folder = PretrainedFolder.read(write_model(tmp_path / "tiny", pooling=pooling))
    model = transformers.AutoModel.from_pretrained(folder.path).eval()
    encoder, tokens = load_encoder(folder), open_tokenizer(folder.path / TOKENIZER, MAX_TOKENS)
    for text in TEXTS:
        plain = torch.tensor([[each - 1 for each in tokens(text)]])
        with torch.inference_mode():
            states = model(input_ids=plain).last_hidden_state[0]
            expected = states[0] if pooling == "cls" else states.mean(dim=0)
            found = encoder(plain + 1)[0]
        np.testing.assert_allclose(found, expected / expected.norm(), atol=1e-6)


def test_weights_of_another_model_are_refused(tiny: PretrainedFolder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "mixed"))
    other = write_model(tmp_path / "other", num_hidden_layers=1)
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(ConfigError, match=r"mixed: the weights lack \S+: they do not belong to this model"):
        load_encoder(PretrainedFolder.read(folder))
    other = write_model(tmp_path / "wide", intermediate_size=96)
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(ConfigError, match=r"mixed: the weights have other shapes than config\.json says"):
        load_encoder(PretrainedFolder.read(folder))
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="mixed: the model cannot be loaded"):
        load_encoder(PretrainedFolder.read(folder))


def test_a_folder_without_weights_has_the_same_parameters(tiny: PretrainedFolder, tmp_path: Path) -> None:
    for name in tiny.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tiny.path / name, tmp_path / name)
    folder = PretrainedFolder.read(tmp_path)
    with pytest.raises(ConfigError, match="expected weights in model"):
        load_encoder(folder)
    loaded, empty = load_encoder(tiny), empty_encoder(folder)
    empty.load_state_dict(loaded.state_dict())
    batch = ids(tiny)
    with torch.inference_mode():
        torch.testing.assert_close(empty(batch), loaded(batch), rtol=0, atol=0)


def test_without_the_package_the_error_names_the_extra(
    tiny: PretrainedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ConfigError, match=r'needs the package transformers: pip install "twinspire\[pretrained\]"'
    ):
        load_encoder(tiny)
