"""A bundle says which Unicode version its texts were read with, and what another version changes is named."""

import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.following import reseal
from tests.helpers.tiny import tiny_bundle
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.features import CategoryFeature, FeatureSpec, Schema
from twinspire.protos.inputs import unicode_record
from twinspire.protos.inputs.unicode_record import (
    END,
    RECORD,
    UnicodeRecord,
    record_of,
    running,
    write_record,
)

OLD = unicodedata.ucd_3_2_0
PHAGS_PA = range(0xA840, 0xA878)  # came with Unicode 5.0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without a record, as earlier versions made them."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), items=20, examples=())


@pytest.fixture(scope="module")
def old() -> UnicodeRecord:
    return record_of(OLD.unidata_version, OLD.category)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """No warning has been logged before."""
    unicode_record._warn_once.cache_clear()


def with_record(plain: Path, folder: Path, content: str, **manifest: Any) -> Path:
    def change(draft: Path) -> None:
        (draft / RECORD).write_text(content)

    return reseal(plain, folder, change, **manifest)


def as_json(version: str, edges: tuple[int, ...]) -> str:
    return json.dumps({"version": version, "edges": edges})


def test_another_version_gives_one_warning_with_both_versions_and_the_characters(
    plain: Path, old: UnicodeRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_record(plain, tmp_path, as_json(old.version, old.edges))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert RECORD in bundle.read(folder).files
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(f"{folder.name}: its towers were trained with Unicode 3.2.0, and this Python has ")
    assert f"has Unicode {unicodedata.unidata_version}. " in text
    ranges = old.differences(running())
    assert f"one of the two assigns ({sum(map(len, ranges)):,}): U+0221, U+0234-U+024F, " in text
    assert f" and {len(ranges) - 20} more ranges. " in text


def test_a_newer_version_is_warned_of_too(
    plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = next(code for code in range(0x20000, END) if unicodedata.category(chr(code)) == "Cn")
    edges = tuple(sorted({*running().edges} ^ {code, code + 1}))
    with caplog.at_level(logging.WARNING):
        bundle.read(with_record(plain, tmp_path, as_json("99.0.0", edges)))
    assert "with Unicode 99.0.0, " in caplog.text
    assert f"one of the two assigns (1): U+{code:04X}. Texts" in caplog.text


def test_nothing_is_said_where_nothing_is_known_to_differ(
    plain: Path, old: UnicodeRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    country: dict[str, FeatureSpec] = {"text": CategoryFeature("category", "country")}
    without_texts = Schema(country, country, {"query.text": ("de",), "item.text": ("de",)})
    folders = [
        plain,
        reseal(plain, tmp_path / "own", write_record),
        with_record(plain, tmp_path / "patch", as_json("99.0.0", running().edges)),
        with_record(plain, tmp_path / "ids", as_json(old.version, old.edges), schema=without_texts),
    ]
    with caplog.at_level(logging.WARNING):
        for folder in folders:
            bundle.read(folder)
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "Expecting value"),
        ("[]", "expected a table"),
        (as_json("14.0\x1b[2J", (0, 9)), "version: expected digits and dots"),
        (as_json("14.0", (0, 9, 20)), "edges: expected an even number of ascending code points"),
        (as_json("14.0", (9, 0)), "edges: expected an even number"),
        (as_json("14.0", (-1, 9)), "edges: expected an even number"),
        (as_json("14.0", (0, END + 1)), "edges: expected an even number"),
        (as_json("14.0", (0, 9)) + " " * unicode_record.LARGEST_RECORD + "1", None),
    ],
)
def test_a_record_is_checked(plain: Path, tmp_path: Path, content: str, expected: str | None) -> None:
    folder = with_record(plain, tmp_path, content)
    if expected is None:  # what is beyond the limit is not read
        bundle.read(folder)
        return
    with pytest.raises(BundleDamaged, match=f"{folder.name}: unicode.json: .*{expected}"):
        bundle.read(folder)


def test_characters_that_both_versions_assign_are_normalised_alike(old: UnicodeRecord) -> None:
    """The claim of the warning, on the two versions that a Python has.

    Case folding of the older one is not in Python. Normalisation is guaranteed from Unicode 4.1 on; before
    it, Corrigendum 4 changed five ideographs.
    """
    changed = {code for each in old.differences(running()) for code in each}
    assert changed.issuperset(PHAGS_PA)
    unlike = {
        code
        for code in range(END)
        if OLD.normalize("NFKC", chr(code)) != unicodedata.normalize("NFKC", chr(code))
    }
    assert len(unlike) > 500
    assert unlike - changed == {0x2F868, 0x2F874, 0x2F91F, 0x2F95F, 0x2F9BF}
