"""Vectors of texts by a frozen encoder, computed once and kept on disk.

    encoded = EncodedTexts(PretrainedFolder.read(path))
    vectors = encoded.vectors(texts, feature)     # float32 (N, H); a second call takes seconds

A vector is found by a hash of its text's tokens; the file's name is a hash of the model's content. So a text
is encoded once, whatever data set, column or experiment it is in, and another model has a file of its own.
Records have a fixed size and are only appended; what was written before an interruption is kept.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from twinspire.protos.features import PADDING, TOKENS, TextFeature
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.files.tokenizer import TOKENIZER, open_tokenizer
from twinspire.train.config.pretrained_tower import EncodingPrecision
from twinspire.train.fingerprint import fingerprint
from twinspire.train.models.placement import Place, as_given
from twinspire.train.models.pretrained.encoder import PretrainedTextEncoder, load_encoder
from twinspire.train.models.pretrained.folder import PretrainedFolder
from twinspire.train.paths import CACHE

VERSION = 1  # increase when the same model gives a text another vector, such as by another pooling
FOLDER = CACHE / "pretrained"
BATCH_TOKENS = 4096  # padded tokens that are encoded at a time: a second or two on two cores
KEY_BYTES = 16
REPORT_SECONDS = 20.0

Vectors = npt.NDArray[np.float32]
Report = Callable[[str], None]

_WAITING = "another process is encoding texts with the same model; waiting for it"


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
