"""Names from outside are what they must be before they become a part of a path."""

import pytest

from twinspire.protos import names

VERSION = "0123456789abcdef" * 4
NO_VERSIONS = (
    "",
    ".",
    "..",
    "/some/folder",
    "../../x",
    VERSION.upper(),
    VERSION[:-1],
    VERSION + "0",
    VERSION + "\n",
)


@pytest.mark.parametrize("text", NO_VERSIONS)
def test_a_bundle_version_is_64_lowercase_hexadecimal_digits(text: str) -> None:
    assert names.bundle_version(VERSION) == VERSION
    assert names.bundle_folder(VERSION) == VERSION[:12]
    for check in (names.bundle_version, names.bundle_folder):
        with pytest.raises(ValueError, match="expected 64 lowercase hexadecimal digits, got"):
            check(text)
    assert not names.is_bundle_folder(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "/etc/hostname",
        "../secret",
        "reports/../../secret",
        "reports/./a",
        "reports//a",
        "reports/",
        "..\\secret",
        ".hidden",
        "a\0b",
        "a\nb",
        "a\ud800",
        "a" * 256,
        "ä" * 128,
    ],
)
def test_a_file_name_is_plain_and_relative(text: str) -> None:
    for name in (
        "items.json",
        "reports/quality.json",
        "a..b",
        "ä b",
        "localhost:3142_debian_Packages",
        "a" * 255,
    ):
        assert names.file_name(name) == name
    with pytest.raises(ValueError, match="expected a plain relative file name, got"):
        names.file_name(text)


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "a/b", "a' or 1=1", "a\n", ".a", "a" * 256])
def test_a_model_name_and_a_run_id_are_short_and_of_few_characters(text: str) -> None:
    assert names.model_name("pydocs-128.v2_x") == "pydocs-128.v2_x"
    assert names.run_id("0" * 32) == "0" * 32
    assert names.model_name("a" * 255) == names.run_id("a" * 255) == "a" * 255
    for check in (names.model_name, names.run_id):
        with pytest.raises(ValueError, match=r"expected .* got"):
            check(text)


def test_an_error_shows_only_the_beginning_of_a_long_text() -> None:
    with pytest.raises(ValueError, match=r"\.\.\.$") as caught:
        names.bundle_version("x" * 100_000)
    assert len(str(caught.value)) < 200
