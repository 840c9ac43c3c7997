"""Texts as arrays of code points: what `features.py` makes of a text that a tower hashes.

NFKC, casefold and the classes of characters (`protos/lexical.py`) come from the tables of the running Python.
Two versions of these normalise a text alike unless it holds a character that one of them does not know
(Unicode Character Encoding Stability Policies).
"""

import functools
import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.errors import InvalidInput

log = logging.getLogger(__name__)

BYTE_ORDER_MARK = 4  # bytes before UTF-32 in native byte order, which Python encodes without a codec look-up


def normalise(text: str) -> str:
    """NFKC, then casefold, then NFKC again, because casefolding can undo the first."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def cut_as_read(text: str, max_length: int) -> str:
    """The part of a text that a tower reads, as it was written where that is possible.

    A tower counts characters after normalisation.
    """
    if text.isascii():
        return text[:max_length]
    normalised = normalise(text)
    return text if len(normalised) <= max_length else normalised[:max_length]


def folded(texts: Sequence[str], max_length: int, field_name: str = "text") -> list[str]:
    """Normalised texts, cut to `max_length` code points.

    Raises:
        InvalidInput: a value is not a string.
    """
    check_strings(texts, field_name)
    return [normalise(text)[:max_length] for text in texts]


def code_point_rows(texts: Sequence[str]) -> npt.NDArray[np.int32]:
    """The code points of each text, padded with 0 to the longest: int32 (B, L), L at least 1."""
    width = max(map(len, texts), default=0) or 1
    joined = "".join([text.ljust(width, "\0") for text in texts]).encode("utf-32", "surrogatepass")
    return np.ndarray((len(texts), width), np.int32, bytearray(joined), BYTE_ORDER_MARK)


def check_strings(texts: Sequence[Any], field_name: str) -> None:
    """Raise `InvalidInput` with the field's name where a value is not a string."""
    for text in texts:
        if not isinstance(text, str):
            raise InvalidInput(field_name, f"expected a string, got {type(text).__name__}")


@functools.cache
def warn_of_other_unicode(name: str, version: str) -> None:
    """Log once that a bundle's texts were read with another Unicode version; empty where it is not known."""
    own = unicodedata.unidata_version
    if version not in ("", own):
        log.warning(
            "%s: its towers were trained with Unicode %s, and this Python has Unicode %s. Texts with "
            "characters that only one of the two knows may be read differently from training. Run a Python "
            "with Unicode %s, or train and export with this one",
            name,
            version,
            own,
            version,
        )
