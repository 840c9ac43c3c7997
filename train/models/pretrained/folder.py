"""Reads the folder of a pretrained text encoder, without loading its weights.

    model-folder/
      config.json                 the architecture
      model.safetensors           the weights; others, such as pickles, are not read
      tokenizer.json              of Hugging Face's `tokenizers`
      modules.json                sentence-transformers: the modules in order
      1_Pooling/config.json       and how tokens are pooled
      sentence_bert_config.json   and the most tokens of a text
      tokenizer_config.json       the same of other models
      config_sentence_transformers.json   a text before each text, which is refused
      README.md                   the licence

The last six may be missing. The folder of a run holds the same files without weights and licence.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleError, ConfigError
from twinspire.protos.files.tokenizer import SHORTEST, TOKENIZER, vocabulary_size
from twinspire.protos.names import file_name

Pooling = Literal["mean", "cls"]

CONFIG = "config.json"
MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
SETTINGS = ("sentence_bert_config.json", "tokenizer_config.json")  # may say the most tokens of a text
MODEL_TYPES = ("bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")  # encoders that are tried
LONGEST_LICENCE = 200  # characters of a licence that are shown
_KEYS_OF_TOKENS = ("max_seq_length", "model_max_length")
_UNLIMITED = 1_000_000  # tokenizers without a limit say a number far larger
_POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}


@dataclass(frozen=True)
class PretrainedFolder:
    """What a folder says about its encoder.

    Args:
        model_type: of its `config.json`.
        width: H, of a vector.
        max_tokens: of a text, special ones included.
        pooling: how the tokens' vectors become one; the mean where the folder does not say.
        normalise: whether the vector is scaled to unit length. True where the folder does not say.
        files: relative paths of the files that describe the encoder, without weights.
        licence: as the folder states it; empty if it does not.
    """

    path: Path
    model_type: str
    width: int
    max_tokens: int
    pooling: Pooling
    normalise: bool
    files: tuple[str, ...]
    licence: str

    @classmethod
    def read(cls, path: Path) -> "PretrainedFolder":
        """Read and check a folder.

        Raises:
            ConfigError: a file is missing, or describes an encoder that is not supported.
        """
        if not path.is_dir():
            raise ConfigError(f"{path}: expected the folder of a pretrained model (tower.model)")
        config = _json(path, CONFIG)
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            raise ConfigError(
                f"{path / CONFIG}: model_type: expected one of {', '.join(MODEL_TYPES)}, got {kind!r}"
            )
        width = _count(path, config, "hidden_size", "dim")
        positions = _count(path, config, "max_position_embeddings")
        if kind in ("mpnet", "roberta", "xlm-roberta"):  # positions begin after that of padding
            positions -= 2
        _check_vocabulary(path, _count(path, config, "vocab_size"))
        _check_texts(path)
        pooling, normalise, pooling_files = _pooling(path)
        limits = [
            int(found)
            for name in SETTINGS
            for key in _KEYS_OF_TOKENS
            if isinstance(found := _json(path, name, optional=True).get(key), int | float)
            and SHORTEST <= found < _UNLIMITED
        ]
        settings = tuple(name for name in SETTINGS if (path / name).is_file())
        files = (CONFIG, TOKENIZER, *pooling_files, *settings)
        most = min([positions, *limits])
        return cls(path, kind, width, most, pooling, normalise, files, _licence(path, config))

    def weights(self) -> tuple[Path, ...]:
        """The files with the weights.

        Raises:
            ConfigError: there are none.
        """
        found = tuple(sorted(self.path.glob("*.safetensors")))
        if not found:
            raise ConfigError(
                f"{self.path}: expected weights in model.safetensors; other formats, such as "
                "pytorch_model.bin, can run code and are not read"
            )
        return found

    def identity(self) -> str:
        """sha256 over the content of weights and description: what the vectors of texts depend on."""
        digest = hashlib.sha256()
        for path in (*self.weights(), *(self.path / name for name in self.files)):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(self.path).as_posix()} {content}\n".encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """Model, size of a vector, tokens, pooling and licence, in words."""
        licence = f"licence {self.licence}" if self.licence else "its folder states no licence"
        return (
            f"{self.path.name}: {self.model_type}, {self.width} dimensions, {self.pooling} pooling, up to "
            f"{self.max_tokens} tokens of a text; {licence}"
        )


def _json(path: Path, name: str, optional: bool = False) -> Mapping[str, Any]:
    if optional and not (path / name).is_file():
        return {}
    found = _parsed(path / name)
    if not isinstance(found, dict):
        raise ConfigError(f"{path / name}: expected a JSON object, got {type(found).__name__}")
    return found


def _parsed(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: a pretrained model needs this file: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None


def _count(path: Path, config: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise ConfigError(f"{path / CONFIG}: {keys[0]}: expected a number above 0, got {config.get(keys[0])!r}")


def _check_vocabulary(path: Path, rows: int) -> None:
    try:
        tokens = vocabulary_size(path / TOKENIZER)
    except BundleError as error:
        raise ConfigError(str(error)) from None
    if tokens > rows:
        raise ConfigError(
            f"{path / TOKENIZER}: has {tokens:,} tokens, but the model has vectors of {rows:,}: "
            "they do not belong together"
        )


def _check_texts(path: Path) -> None:
    """Refuse what changes a text before its tokens, which is not done here."""
    if _json(path, SETTINGS[0], optional=True).get("do_lower_case"):
        raise ConfigError(
            f"{path / SETTINGS[0]}: do_lower_case: expected false; the tokenizer can lower letters"
        )
    prompt = _json(path, PROMPTS, optional=True).get("default_prompt_name")
    if prompt:
        raise ConfigError(f"{path / PROMPTS}: default_prompt_name: expected none, got {prompt!r}")


def _pooling(path: Path) -> tuple[Pooling, bool, tuple[str, ...]]:
    """Pooling, whether the vector is normalised, and the files that say so."""
    if not (path / MODULES).is_file():
        return "mean", True, ()
    modules = _parsed(path / MODULES)
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise ConfigError(f"{path / MODULES}: expected a list of modules")
    names = [str(each.get("type", "")).rpartition(".")[2] for each in modules]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigError(
            f"{path / MODULES}: expected Transformer, Pooling and perhaps Normalize, got {', '.join(names)}"
        )
    if modules[0].get("path"):
        raise ConfigError(f"{path / MODULES}: the encoder is in {modules[0]['path']!r}: name that folder")
    try:
        name = f"{file_name(str(modules[1].get('path', '')))}/{CONFIG}"
    except ValueError as error:
        raise ConfigError(f"{path / MODULES}: path: {error}") from None
    config = _json(path, name)
    modes = [key for key, value in config.items() if key.startswith("pooling_mode") and value is True]
    modes += [key for key in (config.get("pooling_mode"),) if isinstance(key, str)]  # newer versions
    for pooling, key in _POOLING_KEYS.items():
        if modes in ([key], [pooling]):
            return ("mean" if pooling == "mean" else "cls"), len(names) == 3, (MODULES, name)
    raise ConfigError(f"{path / name}: expected mean or cls pooling, got {', '.join(modes) or 'none'}")


def _licence(path: Path, config: Mapping[str, Any]) -> str:
    """The licence of the README's front matter, or of `config.json`; as one short line."""
    stated: Any = config.get("license")
    readme = path / "README.md"
    if readme.is_file():
        lines = readme.read_text(errors="replace").splitlines()
        front = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
        keys = ("license:", "licence:")
        stated = next((each.partition(":")[2] for each in front if each.lower().startswith(keys)), stated)
    stated = str(stated or "").strip() or config.get("license")  # a list of licences stands in lines below
    text = " ".join(f"{stated or ''}".replace('"', "").replace("'", "").split())
    return "".join(filter(str.isprintable, text))[:LONGEST_LICENCE]
