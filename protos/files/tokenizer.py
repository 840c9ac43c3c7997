"""Texts as the token ids of a pretrained tokenizer: a `tokenizer.json` of Hugging Face's `tokenizers`.

    tokens = open_tokenizer(Path("model/tokenizer.json"), 256)
    tokens("compute the eigenvalues")     # [102, 24134, 1997, ..., 103], at most 256 numbers

Training, export and serving call this function, so all of them give a text the same numbers. A number is a
token's id plus 1, because 0 is padding in the arrays of this project, while a model may use any id for it.
The special tokens at the ends of a text, such as [CLS] and [SEP], are part of it and count. A text without
any other token, such as an empty one, gives no numbers at all.

A text cannot bring special tokens along: "[SEP]" in a text is read letter by letter. What the file says of
truncation and padding is ignored.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twinspire.protos.errors import BundleDamaged, PackageMissing

TOKENIZER = "tokenizer.json"  # its name in the folder of a pretrained model, of a run and of a bundle
EXTRA = "tokens"  # of this package: what a service needs for bundles with a tokenizer
SHORTEST = 3  # tokens of a text: one between two special ones
_OPEN = 4  # tokenizers that are kept in memory: those of two bundles during a swap

Tokens = Callable[[str], list[int]]


def open_tokenizer(path: Path, max_tokens: int) -> Tokens:
    """The function from a text to its tokens' numbers; safe to call from several threads.

    Args:
        path: of a `tokenizer.json`.
        max_tokens: tokens kept, special ones included; the rest is cut off.

    Raises:
        PackageMissing: `tokenizers` is not installed.
        BundleDamaged: the file is missing, or holds no tokenizer.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise BundleDamaged(f"{path}: a tower reads this tokenizer: {error.strerror}") from None
    return _opened(path, max_tokens, (state.st_ino, state.st_size, state.st_mtime_ns))


def open_cut(path: Path, max_tokens: int) -> Callable[[str], str]:
    """The function from a text to the part of it that is read; arguments and errors as above."""
    tokenizer = _truncating(path, max_tokens)

    def cut(text: str) -> str:
        encoding = tokenizer.encode(_encodable(text))
        return text[: max(end for _, end in encoding.offsets)] if encoding.overflowing else text

    return cut


def vocabulary_size(path: Path) -> int:
    """One more than the largest token id of a `tokenizer.json`; errors as of `open_tokenizer`."""
    return max(_read(path).get_vocab(with_added_tokens=True).values(), default=-1) + 1


@functools.lru_cache(maxsize=_OPEN)
def _opened(path: Path, max_tokens: int, state: tuple[int, ...]) -> Tokens:
    """Opening a tokenizer takes tenths of a second, so towers share one while its file is the same."""
    tokenizer = _truncating(path, max_tokens)
    special = tokenizer.num_special_tokens_to_add(False)
    encode = tokenizer.encode  # one text a call: a batch would start threads, which a fork does not survive

    def tokens(text: str) -> list[int]:
        ids: list[int] = encode(_encodable(text)).ids
        return [each + 1 for each in ids] if len(ids) > special else []

    return tokens


def _truncating(path: Path, max_tokens: int) -> Any:
    tokenizer = _read(path)
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    special = tokenizer.num_special_tokens_to_add(False)
    if special >= max_tokens:
        raise BundleDamaged(f"{path}: adds {special} tokens to a text, but the tower reads {max_tokens}")
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _encodable(text: str) -> str:
    """The text with `?` in place of lone surrogates, which are no text."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _read(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise PackageMissing(
            f"{path}: this tokenizer needs the package tokenizers: pip install 'twinspire[{EXTRA}]'"
        ) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library's errors share no other base
        raise BundleDamaged(f"{path}: not a tokenizer: {error}") from None
