"""JSON and TOML from outside: parsed, or a `ValueError`, however deep they nest."""

from pathlib import Path

import pytest

from tests.helpers.tampered import DEEP
from twinspire.protos import toml_config
from twinspire.protos.documents import MAX_LEVELS, TOO_DEEP, parse_json, parse_toml
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import TextFeature


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def test_json_is_parsed_as_the_standard_library_does() -> None:
    assert parse_json('{"a": [1, 2.5, null, "x[{"]}') == {"a": [1, 2.5, None, "x[{"]}
    assert parse_json(b"\xef\xbb\xbf1") == parse_json("1".encode("utf-16")) == 1
    assert parse_json("[" + ",".join(["[]"] * 500) + "]") == [[]] * 500
    for text in ("", "{", b"\xff", "nothing"):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a": ', "}"), ('[{"a": ', "}]")])
def test_json_may_nest_only_so_deep(brackets: tuple[str, str]) -> None:
    each = len(brackets[1])
    whole = MAX_LEVELS // each
    text = brackets[0] * whole + "1" + brackets[1] * whole
    assert parse_json(text)
    for deep in (f"[{text}]", nested(5000), nested(200_000), DEEP, DEEP.decode(), b'{"a":' * 200_000):
        with pytest.raises(ValueError, match=TOO_DEEP):
            parse_json(deep)


@pytest.mark.parametrize(
    "text", ["a = " + nested(MAX_LEVELS), "a = " + "[" * 200_000, "a" + ".a" * 5000 + " = 1"]
)
def test_toml_may_nest_only_so_deep(text: str, tmp_path: Path) -> None:
    assert parse_toml(f"a = {nested(MAX_LEVELS - 1)}".encode())
    with pytest.raises(ValueError, match=TOO_DEEP):
        parse_toml(text.encode())
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.toml: not valid TOML: {TOO_DEEP}"):
        toml_config.read(path, TextFeature)
