"""A pretrained text encoder as a torch module: token ids in, one vector for each text out.

The module of `transformers` is used as it is; attention mask, pooling and norm are part of this module, so
they are part of the exported graph. `transformers` is imported here only, and only when an encoder is made.

    encoded = EncodedTexts(PretrainedFolder.read(path))
    vectors = encoded.vectors(texts, feature)     # float32 (N, H); a second call takes seconds

Vectors of texts by a frozen encoder are computed once and kept on disk. A vector is found by a hash of its
text's tokens; the file's name is a hash of the model's content. So a text is encoded once, whatever data set,
column or experiment it is in, and another model has a file of its own. Records have a fixed size and are only
appended; what was written before an interruption is kept.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twinspire.protos.errors import ConfigError
from twinspire.protos.features import PADDING, TOKENS, TextFeature
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.files.tokenizer import TOKENIZER, open_tokenizer
from twinspire.train.config.pretrained_tower import EncodingPrecision
from twinspire.train.fingerprint import fingerprint
from twinspire.train.models.encoders import l2_normalize
from twinspire.train.models.placement import Place, as_given
from twinspire.train.models.pretrained.folder import Pooling, PretrainedFolder
from twinspire.train.paths import CACHE

EXTRA = "pretrained"
_MASKED = -1e9  # added to the attention scores of padding; minus infinity would make NaN of a text of padding
_PLAIN = ("mpnet",)  # they take a mask (B, L) of ones and zeros, and have no fused attention
_UNUSED = "pooler"  # weights for another pooling than ours

VERSION = 1  # increase when the same model gives a text another vector, such as by another pooling
FOLDER = CACHE / "pretrained"
BATCH_TOKENS = 4096  # padded tokens that are encoded at a time: a second or two on two cores
KEY_BYTES = 16
REPORT_SECONDS = 20.0
Vectors = npt.NDArray[np.float32]
Report = Callable[[str], None]
_WAITING = "another process is encoding texts with the same model; waiting for it"


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


class EncodedTexts:
    """The vectors of texts by one pretrained model.

    Args:
        parent: of the files with vectors; None is the cache of this project.
        report: receives a line now and then while texts are encoded.
        precision: of the encoder's matrix products; vectors are float32 in any case, and those of another
            precision are kept in another file.
        place: moves tensors to the device where the encoder computes. Vectors of two devices differ by
            rounding, and share a file.
    """

    def __init__(
        self,
        folder: PretrainedFolder,
        parent: Path | None = None,
        report: Report = lambda line: None,
        precision: EncodingPrecision = "float32",
        place: Place[torch.Tensor] = as_given,
    ) -> None:
        self.folder, self._report, self._precision, self._place = folder, report, precision, place
        self._record = np.dtype([("key", f"V{KEY_BYTES}"), ("vector", np.float32, (folder.width,))])
        key = fingerprint(VERSION, folder.identity(), *(() if precision == "float32" else (precision,)))
        self.path = (parent or FOLDER) / f"{key[:16]}.vectors"
        self._encoder: PretrainedTextEncoder | None = None

    def vectors(self, texts: Sequence[str], spec: TextFeature) -> Vectors:
        """Float32 (N, H): a vector for each text, zero for one without tokens.

        Args:
            spec: of the texts' feature; one of code points is read as far as the model reads.
        """
        reads = spec if spec.reads_tokens else TextFeature("text", "", self.folder.max_tokens, "", TOKENS)
        tokens_of = open_tokenizer(self.folder.path / TOKENIZER, reads.max_length)
        tokens = [tokens_of(text[: reads.longest]) for text in texts]
        keys = [_key(each) for each in tokens]
        wanted = dict(zip(keys, tokens, strict=True))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.path.with_suffix(".lock"), on_wait=lambda: self._report(_WAITING)):
            rows = self._rows()
            missing = {key: each for key, each in wanted.items() if key not in rows}
            if missing:
                self._encode(missing)
                rows = self._rows()
            return np.ascontiguousarray(self._records()["vector"][[rows[key] for key in keys]])

    def _records(self) -> npt.NDArray[np.void]:
        """All whole records of the file."""
        if not self.path.is_file() or self.path.stat().st_size < self._record.itemsize:
            return np.empty(0, self._record)
        count = self.path.stat().st_size // self._record.itemsize
        return np.memmap(self.path, self._record, "r", shape=(count,))

    def _rows(self) -> dict[bytes, int]:
        """Key -> row of its record."""
        return {key.tobytes(): row for row, key in enumerate(self._records()["key"])}

    def _encode(self, missing: dict[bytes, list[int]]) -> None:
        """Encode texts and append their records."""
        device = self._place(torch.empty(0)).device
        encoder = self._encoder = self._encoder or load_encoder(self.folder).to(device)
        begun = told = time.monotonic()
        done = 0
        whole = len(self._records()) * self._record.itemsize
        with self.path.open("ab") as file:
            file.truncate(whole)  # without the part of a record that an interruption has left
            for batch in _batches(missing):
                ids = np.full((len(batch), max(1, *(len(missing[key]) for key in batch))), PADDING, np.int32)
                for row, key in enumerate(batch):
                    ids[row, : len(missing[key])] = missing[key]
                placed = self._place(torch.from_numpy(ids))
                with torch.inference_mode(), self._matrix_products(device.type):
                    vectors = encoder(placed).float().cpu().numpy()
                records = np.empty(len(batch), self._record)
                records["key"] = np.frombuffer(b"".join(batch), f"V{KEY_BYTES}")
                records["vector"] = vectors
                file.write(records.tobytes())
                done += len(batch)
                if time.monotonic() - told > REPORT_SECONDS:
                    told = time.monotonic()
                    rate = done / (told - begun)
                    self._report(f"{done:,} of {len(missing):,} texts encoded, {rate:,.0f} a second")

    def _matrix_products(self, device: str) -> AbstractContextManager[object]:
        return torch.autocast(device, torch.bfloat16) if self._precision == "bfloat16" else nullcontext()


def _batches(texts: dict[bytes, list[int]]) -> Iterator[list[bytes]]:
    """Keys of texts that are encoded together: of similar length, the longest first, up to `BATCH_TOKENS`."""
    batch: list[bytes] = []
    longest = 1
    for key in sorted(texts, key=lambda key: len(texts[key]), reverse=True):
        if batch and (len(batch) + 1) * longest > BATCH_TOKENS:
            yield batch
            batch = []
        longest = longest if batch else max(1, len(texts[key]))
        batch.append(key)
    if batch:
        yield batch


def _key(tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.array(tokens, np.int32).tobytes(), digest_size=KEY_BYTES).digest()
