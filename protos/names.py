"""Validates untrusted names before they become part of a path, a query or an address.

A bundle version comes from a tag in the registry, a file name from a bundle's manifest, a model name from a
manifest or a configuration, a run id from a tracking server. Each function but `near` returns its argument,
or raises a `ValueError` that says what was expected; callers add where the name was found.
"""

import difflib
import re
from collections.abc import Iterable

DIGITS = 12  # of a bundle's version in the name of its folder
LONGEST_PART = 255  # bytes of the name of a file or a folder on Linux
LONGEST_SHOWN = 80  # characters of a refused name in an error

_VERSION = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
_MODEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_PART - 1}}}")
_RUN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_PART - 1}}}")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")  # surrogates cannot be encoded


def bundle_version(text: str) -> str:
    """The version of a bundle, a sha256.

    Raises:
        ValueError: it is not 64 lowercase hexadecimal digits.
    """
    return _matching(_VERSION, text, "64 lowercase hexadecimal digits")


def bundle_folder(version: str) -> str:
    """The name of a bundle's folder, from its version.

    Raises:
        ValueError: the version is not 64 lowercase hexadecimal digits.
    """
    return bundle_version(version)[:DIGITS]


def is_bundle_folder(name: str) -> bool:
    """Whether this is the name of a bundle's folder."""
    return _FOLDER.fullmatch(name) is not None


def model_name(text: str) -> str:
    """The name of a registered model and of its experiment.

    Raises:
        ValueError: it has other characters than letters, digits, `.`, `_` and `-`, begins with one of these
            three, or has more than 255 characters.
    """
    expected = f"1 to {LONGEST_PART} letters, digits, '.', '_' and '-', beginning with a letter or a digit"
    return _matching(_MODEL, text, expected)


def run_id(text: str) -> str:
    """The id of an MLflow run.

    Raises:
        ValueError: it has other characters than letters, digits, `_` and `-`, or more than 255 of them.
    """
    return _matching(_RUN, text, f"1 to {LONGEST_PART} letters, digits, '_' and '-'")


def file_name(text: str) -> str:
    """The name of a file inside a folder, such as `reports/quality.json`.

    A colon is allowed: it has no meaning on POSIX systems.

    Raises:
        ValueError: it is absolute, has a part that is empty, begins with a dot or is longer than 255 bytes,
            or has a backslash, a control character or a surrogate.
    """
    if _UNSAFE.search(text) or not all(map(_is_plain, text.split("/"))):
        raise ValueError(f"expected a plain relative file name, got {_shown(text)}")
    return text


def _is_plain(part: str) -> bool:
    return part != "" and not part.startswith(".") and len(part.encode()) <= LONGEST_PART


def _matching(pattern: re.Pattern[str], text: str, expected: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"expected {expected}, got {_shown(text)}")
    return text


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[: LONGEST_SHOWN - 3]}..."


def near(given: str, known: Iterable[object]) -> str:
    """The end of an error about an unknown name: the known name that was probably meant, if there is one."""
    found = difflib.get_close_matches(given[:LONGEST_SHOWN], [str(each) for each in known], n=1)
    return f"; did you mean {found[0]}?" if found else ""
