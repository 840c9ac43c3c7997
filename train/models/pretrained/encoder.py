"""A pretrained text encoder as a torch module: token ids in, one vector for each text out.

The module of `transformers` is used as it is; attention mask, pooling and norm are part of this module, so
they are part of the exported graph. `transformers` is imported here only, and only when an encoder is made.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from twinspire.protos.errors import ConfigError
from twinspire.protos.features import PADDING
from twinspire.train.models.encoders import l2_normalize
from twinspire.train.models.pretrained.folder import Pooling, PretrainedFolder

EXTRA = "pretrained"
_MASKED = -1e9  # added to the attention scores of padding; minus infinity would make NaN of a text of padding
_PLAIN = ("mpnet",)  # they take a mask (B, L) of ones and zeros, and have no fused attention
_UNUSED = "pooler"  # weights for another pooling than ours


class PretrainedTextEncoder(nn.Module):
    """Vectors of texts by a pretrained encoder, whose weights are frozen.

    Args:
        model: of `transformers`; its forward gives `last_hidden_state`, (B, L, H).
        pad: the token id that stands at padding.
        pooling: `mean` of the tokens' vectors, or `cls`, the vector of the first token.
        normalise: scale the vector to unit length.
    """

    def __init__(self, model: nn.Module, pad: int, pooling: Pooling, normalise: bool) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.plain_mask = getattr(model.config, "model_type", "") in _PLAIN
        self.pad, self.pooling, self.normalise = pad, pooling, normalise
        self.train(False)

    def train(self, mode: bool = True) -> "PretrainedTextEncoder":
        """Leave the module in evaluation mode, without dropout: its weights are frozen."""
        super().train(False)
        return self

    def forward(self, text: Tensor) -> Tensor:
        """Vectors (B, H).

        A vector does not depend on the padding of a batch, other than by rounding. A text without tokens gets
        the zero vector.

        Args:
            text: integers (B, L), token ids plus 1, 0 is padding; or float32 (B, H), vectors that this
                encoder gave before.
        """
        if text.is_floating_point():
            return text
        present = text != PADDING  # (B, L)
        ids = torch.where(present, text - 1, self.pad)
        mask = present if self.plain_mask else (~present)[:, None, None, :].float() * _MASKED
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, H)
        weights = present[:, :, None].float()
        if self.pooling == "cls":
            pooled = states[:, 0] * weights[:, 0]
        else:
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return l2_normalize(pooled) if self.normalise else pooled


def load_encoder(folder: PretrainedFolder) -> PretrainedTextEncoder:
    """The encoder with the weights of its folder.

    Raises:
        ConfigError: `transformers` is not installed, or the weights do not fit the description.
    """
    folder.weights()  # raises where the weights are missing
    with _quiet() as transformers:
        try:
            model, report = transformers.AutoModel.from_pretrained(
                folder.path,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are in the report
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation=_attention(folder),
                output_loading_info=True,
            )
        except Exception as error:  # the library's errors share no other base
            raise ConfigError(f"{folder.path}: the model cannot be loaded: {error}") from None
    missing = sorted(name for name in report["missing_keys"] if _UNUSED not in name)
    if missing or report["mismatched_keys"]:
        what = f"lack {missing[0]}" if missing else "have other shapes than config.json says"
        raise ConfigError(f"{folder.path}: the weights {what}: they do not belong to this model")
    return _encoder(model, folder)


def empty_encoder(folder: PretrainedFolder) -> PretrainedTextEncoder:
    """The encoder with random weights, for a folder without weights.

    Raises:
        ConfigError: `transformers` is not installed.
    """
    with _quiet() as transformers:
        config = transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True)
        model = transformers.AutoModel.from_config(
            config, attn_implementation=_attention(folder), dtype=torch.float32
        )
    return _encoder(model, folder)


def _encoder(model: Any, folder: PretrainedFolder) -> PretrainedTextEncoder:
    if hasattr(model, _UNUSED):
        model.pooler = None
    pad = model.config.pad_token_id or 0
    return PretrainedTextEncoder(model, pad, folder.pooling, folder.normalise)


def _attention(folder: PretrainedFolder) -> str:
    return "eager" if folder.model_type in _PLAIN else "sdpa"


@contextmanager
def _quiet() -> Iterator[Any]:
    """`transformers`, without network, progress bars and warnings about weights that are not needed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import transformers
        except ImportError as error:
            raise ConfigError(
                f'tower.kind = "transformer" needs the package {error.name}: pip install "twinspire[{EXTRA}]"'
            ) from None
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        yield transformers
