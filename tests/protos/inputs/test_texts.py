"""Texts become code points in the same way, whatever script they are in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinspire.protos.inputs.texts import code_point_rows, folded, normalise

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ABC", "abc"),
        ("Straße", "strasse"),
        ("ﬁ", "fi"),  # the ligature
        ("\uff21\uff11", "a1"),  # full width
        ("e\u0301", "é"),
        ("İ", "i̇"),
        ("日本語", "日本語"),
        ("", ""),
        ("a\0b", "a\0b"),
    ],
)
def test_text_is_folded(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(UNICODE)
def test_folding_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.lists(UNICODE, min_size=1, max_size=8), st.integers(1, 20))
def test_rows_hold_the_code_points(texts: list[str], max_length: int) -> None:
    rows = code_point_rows(folded(texts, max_length))
    assert rows.dtype == np.int32
    expected = [normalise(text)[:max_length] for text in texts]
    assert rows.shape == (len(texts), max(1, *map(len, expected)))
    for row, text in zip(rows.tolist(), expected, strict=True):
        assert row == [*map(ord, text)] + [0] * (len(row) - len(text))
    assert rows.flags.writeable  # torch warns of one that is not


def test_no_texts_are_no_rows() -> None:
    assert code_point_rows([]).shape == (0, 1)
